"""What a run keeps is laid out as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.checkpoints import Keeping
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.job_file import SampleRequest
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

_CTX = StepContext(TrainingJobSpec("run", 9))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LocalArtifactWriter]:
    made = LocalArtifactWriter(
        checkpoints_dir=tmp_path / "checkpoints",
        samples_dir=tmp_path / "samples",
        sample_requests=(
            SampleRequest("a", "t2i", "a cube"),
            SampleRequest("b", "edit", "", seed=4),
        ),
        sample_fixed_seed=3,
        keeping=Keeping(last=2),
        small_bytes=0,
    )
    yield made
    made.close()


class Saving:
    """A trainer that writes its weights."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.result = result

    def save_checkpoint(
        self, *, state: Any, step: int, output_dir: Any, final: bool, ctx: StepContext
    ) -> Any:
        self.calls.append((step, final))
        (output_dir / "weights.bin").write_bytes(b"w%d" % step)
        return self.result(output_dir) if callable(self.result) else self.result


def kept(writer: LocalArtifactWriter, step: int, trainer: Any, **more: Any) -> str:
    return writer.write_checkpoint(
        step=step, state_payload={"n": step}, trainer=trainer, state=None, ctx=_CTX, **more
    )


def test_a_trainer_without_files(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    path = kept(writer, 5, object(), metrics={"train/loss": 0.5, "bad": float("nan")})

    assert path == str(tmp_path / "checkpoints" / "step-00000005.json")
    body = json.loads(Path(path).read_bytes())
    assert (body["step"], body["request_id"], body["state"]) == (5, "run", {"n": 5})
    assert body["metrics"] == {"train/loss": 0.5}
    assert "trainer_checkpoint" not in body


@pytest.mark.parametrize(
    "result",
    [
        {"primary_path": "weights.bin", "note": 1},
        lambda folder: {"primary_path": folder / "weights.bin", "note": 1},
        lambda folder: {"primary_path": str(folder / "weights.bin"), "note": 1},
    ],
)
def test_a_trainer_says_which_file_is_the_one(
    writer: LocalArtifactWriter, tmp_path: Path, result: Any
) -> None:
    path = kept(writer, 5, Saving(result))

    assert path == str(tmp_path / "checkpoints" / "step-00000005" / "weights.bin")
    assert Path(path).read_bytes() == b"w5"
    body = json.loads((tmp_path / "checkpoints" / "step-00000005.json").read_bytes())
    assert body["trainer_checkpoint"]["note"] == 1


def test_the_final_one_is_told_the_real_step(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    trainer = Saving({"kind": "lora"})
    path = writer.finalize(
        step=7, state_payload={"step": 99}, trainer=trainer, state=None, ctx=_CTX
    )

    assert path == writer.last_final_checkpoint_path
    assert path == str(tmp_path / "checkpoints" / "final.json")
    assert trainer.calls == [(7, True)]
    body = json.loads(Path(path).read_bytes())
    assert (body["final"], body["step"], body["trainer_checkpoint"]) == (True, 7, {"kind": "lora"})
    assert (tmp_path / "checkpoints" / "final" / "weights.bin").is_file()


def test_only_what_is_wanted_stays(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        kept(writer, step, Saving())

    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000002", "step-00000002.json", "step-00000003", "step-00000003.json"]


def test_a_result_that_is_none(writer: LocalArtifactWriter) -> None:
    with pytest.raises(CheckpointError, match="save_checkpoint returned str"):
        kept(writer, 1, Saving("weights.bin"))


def test_what_the_runtime_keeps_itself(writer: LocalArtifactWriter) -> None:
    kept(writer, 1, object(), runtime={"cursor": 3})

    found = writer.store.newest()
    assert found is not None
    assert found.checkpoint.runtime == {"cursor": 3}


def begin(writer: LocalArtifactWriter, step: int, trainer: Any) -> None:
    writer.begin_checkpoint(
        step=step, state_payload={"n": step}, trainer=trainer, state=None, ctx=_CTX
    )


def test_a_checkpoint_that_is_on_its_way(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    for step in (1, 2):
        begin(writer, step, Saving())

    ended = list(writer.ended_checkpoints(wait=True))
    root = tmp_path / "checkpoints"
    assert ended == [(str(root / f"step-0000000{step}.json"), step) for step in (1, 2)]
    assert list(writer.ended_checkpoints(wait=True)) == []
    found = writer.store.newest()
    assert found is not None
    assert found.checkpoint.step == 2


def test_a_checkpoint_without_files_is_there_at_once(writer: LocalArtifactWriter) -> None:
    begin(writer, 1, object())

    assert [one.step for one in writer.ended_checkpoints(wait=False)] == [1]


def test_a_disk_that_fails_in_the_background(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    """It is said where the next is begun, or where the end is asked for; and only once."""

    class Linking(Saving):
        def save_checkpoint(self, *, output_dir: Any, **more: Any) -> Any:
            (output_dir / "link").symlink_to("elsewhere")
            return super().save_checkpoint(output_dir=output_dir, **more)

    begin(writer, 1, Saving())
    begin(writer, 2, Linking())
    with pytest.raises(CheckpointError, match="is a link"):
        begin(writer, 3, Saving())
    begin(writer, 4, Linking())
    ended = writer.ended_checkpoints(wait=True)
    assert next(ended).step == 1
    with pytest.raises(CheckpointError, match="is a link"):
        next(ended)

    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [".lock", "step-00000001", "step-00000001.json"]


class State:
    def generate_sample(self, *, prompt: str, seed: int, mode: str, step: int) -> Any:
        return {
            "prompt": prompt.upper(),
            "score": step + seed,
            "image": b"\x89PNG...",
            "mode": mode,
        }


def test_samples(writer: LocalArtifactWriter, tmp_path: Path) -> None:
    paths = writer.write_samples(step=100, state=State(), ctx=_CTX)

    base = tmp_path / "samples"
    assert paths == [
        str(base / name)
        for name in (
            "step-00000100-00.json",
            "step-00000100-00.png",
            "step-00000100-01.json",
            "step-00000100-01.png",
        )
    ]
    assert json.loads(Path(paths[0]).read_bytes()) == {
        "step": 100,
        "request_id": "run",
        "mode": "t2i",
        "prompt": "A CUBE",
        "negative_prompt": "",
        "instruction": None,
        "source_image": None,
        "seed": 3,
        "score": 103,
        "files": ["step-00000100-00.png"],
    }
    assert json.loads(Path(paths[2]).read_bytes())["score"] == 104
    assert Path(paths[1]).read_bytes() == b"\x89PNG..."


def test_a_generator_that_takes_anything(writer: LocalArtifactWriter) -> None:
    offered: list[dict[str, Any]] = []

    def generate_sample(**given: Any) -> None:
        offered.append(given)

    paths = writer.write_samples(step=1, state={"generate_sample": generate_sample}, ctx=_CTX)

    assert [Path(path).suffix for path in paths] == [".json", ".json"]
    assert sorted(offered[0]) == [
        "ctx",
        "instruction",
        "mode",
        "negative_prompt",
        "prompt",
        "request",
        "seed",
        "source_image",
        "step",
    ]


def test_a_state_that_makes_no_samples(writer: LocalArtifactWriter) -> None:
    paths = writer.write_samples(step=1, state=object(), ctx=_CTX)

    assert [json.loads(Path(path).read_bytes())["mode"] for path in paths] == ["t2i", "edit"]


def test_no_prompts(tmp_path: Path) -> None:
    writer = LocalArtifactWriter(checkpoints_dir=tmp_path / "c", samples_dir=tmp_path / "s")
    paths = writer.write_samples(step=2, state=State(), ctx=_CTX)
    writer.close()

    assert paths == [str(tmp_path / "s" / "step-00000002.txt")]
    assert Path(paths[0]).read_text() == "sample step=2 request_id=run\n"
    assert json.loads((tmp_path / "s" / "step-00000002.json").read_bytes()) == {
        "step": 2,
        "request_id": "run",
        "mode": "t2i",
        "prompt": "",
    }
