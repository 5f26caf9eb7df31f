"""Trackers are told what is reported, and one that fails is left out."""

from __future__ import annotations

import struct
import sys
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.errors import StartupContractError, TrainingCanceled
from gen_worker.trainer.loop.reporting import Reporting
from gen_worker.trainer.loop.running import Run
from gen_worker.trainer.tracking import TrackedRun, Tracking, trackers_of

if TYPE_CHECKING:
    from pathlib import Path


class Recorder:
    """A tracker that writes down what it is told, and fails when it is to."""

    def __init__(self, fails: str = "", label: str = "") -> None:
        self.told: list[Any] = []
        self.fails = fails
        self.label = label

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def note(*told: Any) -> None:
            self.told.append((name, *told))
            if name == self.fails:
                raise OSError("nobody is there")

        return note


class NoTracker:
    def start(self, run: Any) -> None: ...


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda **_: None


def tracked(directory: Path, start_step: int = 0) -> TrackedRun:
    return TrackedRun(
        request_id="run-7",
        trainer="m:T",
        hyperparams={"lr": 0.5},
        directory=str(directory),
        start_step=start_step,
        max_steps=9,
    )


def run_with(part: Tracking, step: int = 0) -> Run:
    ctx = StepContext(TrainingJobSpec("run-7", 9))
    reporting = Reporting(Silent(), None, [part], ALONE)
    return Run(ctx=ctx, trainer=None, world=ALONE, reporting=reporting, step=step)


def go(part: Tracking, steps: range, error: BaseException | None = None) -> None:
    """Report a metric at each step, and end."""
    run = run_with(part, steps.start)
    part.begin(run)
    for step in steps:
        run.step = step
        run.reporting.metrics(run, {"train/loss": 10.0 * step})
    run.reporting.checkpoint("/kept", run.step)
    part.end(run, error)


def test_a_tracker_is_told_everything(tmp_path: Path) -> None:
    recorder = Recorder()

    go(Tracking([("r", recorder)], tracked(tmp_path)), range(1, 3))

    assert [one[0] for one in recorder.told] == [
        "start",
        "log_metrics",
        "log_metrics",
        "log_checkpoint",
        "finish",
    ]
    assert recorder.told[2] == ("log_metrics", {"train/loss": 20.0}, 2)
    assert recorder.told[-1] == ("finish", "completed")


@pytest.mark.parametrize("fails", ["start", "log_metrics", "log_checkpoint", "finish"])
def test_a_tracker_that_fails_is_told_nothing_more(
    tmp_path: Path, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(fails), Recorder()

    go(Tracking([("bad", bad), ("good", good)], tracked(tmp_path)), range(1, 3))

    assert [one[0] for one in bad.told][-1] == fails
    assert len([one for one in bad.told if one[0] == fails]) == 1
    assert len(good.told) == 5
    assert f"tracker 'bad' is told nothing more: its {fails} raised OSError" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("x"), "failed"), (TrainingCanceled(), "canceled")]
)
def test_a_tracker_is_told_the_end(tmp_path: Path, error: BaseException, status: str) -> None:
    recorder = Recorder()
    go(Tracking([("r", recorder)], tracked(tmp_path)), range(1, 2), error)
    assert recorder.told[-1] == ("finish", status)


def test_trackers_are_made_by_their_names() -> None:
    name = f"{__name__}:Recorder"
    sys.modules[__name__] = sys.modules[Recorder.__module__]

    made: list[Any] = trackers_of([name, {"tracker": name, "label": "mine"}])

    assert [(one[0], one[1].label) for one in made] == [(name, ""), (name, "mine")]


def test_every_tracker_that_cannot_be_made_is_named() -> None:
    sys.modules[__name__] = sys.modules[Recorder.__module__]
    entries: list[str | dict[str, Any]] = [
        "wandb",
        {"tracker": f"{__name__}:Recorder", "colour": 1},
        f"{__name__}:NoTracker",
    ]
    with pytest.raises(StartupContractError) as raised:
        trackers_of(entries)

    text = str(raised.value)
    assert "'wandb': this names no tracker: write module:Class" in text
    assert "colour" in text
    assert "it is missing log_metrics, log_sample" in text


# -- TensorBoard -----------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """Return a grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x7f" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def read(directory: Path) -> Any:
    module = import_module("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_one_curve_of_all_attempts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    go(Tracking(trackers_of(["tensorboard"]), tracked(tmp_path)), range(1, 7))

    go(Tracking(trackers_of(["tensorboard"]), tracked(tmp_path, 4)), range(5, 9))

    curve = read(tmp_path / "tensorboard").Scalars("train/loss")
    assert [(one.step, one.value) for one in curve] == [(step, 10.0 * step) for step in range(1, 9)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_samples_and_prompts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    part = Tracking(trackers_of([{"tracker": "tensorboard", "directory": "tb"}]), tracked(tmp_path))
    run = run_with(part, 2)
    image = tmp_path / "step-00000002-00.png"
    image.write_bytes(png(4, 3))
    text = tmp_path / "step-00000002-00.json"
    text.write_text('{"prompt": "a red cube"}')
    other = tmp_path / "step-00000002.txt"
    other.write_text("sample")

    part.begin(run)
    for path in (text, image, other):
        run.reporting.sample(str(path), 2)
    run.reporting.metrics(run, {"train/loss": float("nan")})
    part.end(run, None)

    found = read(tmp_path / "tb")
    (shown,) = found.Images("samples/00")
    assert (shown.step, shown.width, shown.height) == (2, 4, 3)
    assert shown.encoded_image_string == png(4, 3)
    (prompt,) = found.Tensors("samples/00/prompt")
    assert prompt.tensor_proto.string_val[0] == b"a red cube"
    (told,) = found.Tensors("hyperparams")
    assert b'"lr": 0.5' in told.tensor_proto.string_val[0]
    assert len(found.Scalars("train/loss")) == 1


def test_without_tensorboard_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(StartupContractError, match=r"pip install 'gen-worker\[tensorboard\]'"):
        trackers_of(["tensorboard"])
