"""Hooks are called in the documented order, and what is due is reported then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, StepControlHints, StepResult, TrainingJobSpec
from gen_worker.trainer.errors import ArtifactUploadError, TrainingCanceled
from gen_worker.trainer.loop import TrainingLoop, run_training_loop

if TYPE_CHECKING:
    from collections.abc import Iterator


class Trainer:
    """Writes down what is called."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls
        self.fails_at = 0
        self.control: dict[int, StepControlHints] = {}

    def setup(self, ctx: StepContext) -> None:
        self.calls.append("setup")

    def configure(self, ctx: StepContext) -> dict[str, Any]:
        self.calls.append("configure")
        return {"seen": []}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        self.calls.append(("load_state_dict", payload))

    def load_checkpoint(
        self, *, state: Any, checkpoint_dir: Any, payload: Any, ctx: StepContext
    ) -> None:
        self.calls.append(("load_checkpoint", checkpoint_dir))

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        self.calls.append(("prepare", raw_batch))
        return raw_batch * 10

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.calls.append(("step", batch))
        state["seen"].append(batch)
        step = len(state["seen"])
        if step == self.fails_at:
            raise RuntimeError("the loss exploded")
        return StepResult({"loss": float(batch)}, control=self.control.get(step))

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {"seen": list(state["seen"])}


class Surroundings:
    """Reporter, writer and uploader, which write down what they are told."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.cancels_at: int | None = None
        self.looks = 0
        self.cancel_reason = "timeout"

    def started(self, *, request_id: str) -> None:
        self.told.append(("started", request_id))

    def metric(self, *, name: str, value: float, step: int) -> None:
        self.told.append(("metric", name, value, step))

    def checkpoint(self, *, path: str, step: int) -> None:
        self.told.append(("checkpoint", path, step))

    def sample(self, *, path: str, step: int) -> None:
        self.told.append(("sample", path, step))

    def completed(self, *, step: int, final_checkpoint: str | None) -> None:
        self.told.append(("completed", step, final_checkpoint))

    def failed(self, *, step: int, error: str) -> None:
        self.told.append(("failed", step, error))

    def is_canceled(self) -> bool:
        self.looks += 1
        return self.cancels_at is not None and self.looks > self.cancels_at

    def write_checkpoint(self, *, step: int, state_payload: Any, **_: Any) -> str:
        assert len(state_payload["seen"]) > 0
        return f"step-{step}"

    def write_samples(self, *, step: int, state: Any, ctx: StepContext) -> list[str]:
        return [f"sample-{step}-{index}" for index in range(2)]

    def finalize(self, **_: Any) -> str | None:
        self.told.append("finalize")
        return "final"

    def upload_checkpoint(self, *, local_path: str, step: int) -> dict[str, Any]:
        self.told.append(("upload", local_path, step))
        return {}

    def upload_sample(self, *, local_path: str, step: int) -> dict[str, Any]:
        return self.upload_checkpoint(local_path=local_path, step=step)

    def upload_metrics(self, *, metrics: Any, step: int) -> dict[str, Any]:
        self.told.append(("upload", dict(metrics), step))
        return {}


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def around(told: list[Any]) -> Surroundings:
    return Surroundings(told)


@pytest.fixture
def trainer(told: list[Any]) -> Trainer:
    return Trainer(told)


def run(trainer: Any, around: Any, batches: Any, *, uploads: bool = False, **fields: Any) -> int:
    loop = {name: fields.pop(name) for name in list(fields) if name.startswith(("start", "resume"))}
    job = TrainingJobSpec("run", fields.pop("max_steps", 5), **{"metric_every": 0, **fields})
    return run_training_loop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=batches,
        reporter=around,
        artifact_writer=around,
        uploader=around if uploads else None,
        **loop,
    )


def of(told: list[Any], *kinds: str) -> list[Any]:
    return [one for one in told if isinstance(one, tuple) and one[0] in kinds]


def test_what_is_due_when(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    pulled: list[int] = []

    def batches() -> Iterator[int]:
        for index in range(1, 8):
            pulled.append(index)
            yield index

    steps = run(trainer, around, batches(), metric_every=2, checkpoint_every=3, sample_every=4)

    assert steps == 5
    assert pulled == [1, 2, 3, 4, 5]
    assert of(told, "started", "metric", "checkpoint", "sample", "completed") == [
        ("started", "run"),
        ("metric", "train/loss", 20.0, 2),
        ("checkpoint", "step-3", 3),
        ("metric", "train/loss", 40.0, 4),
        ("sample", "sample-4-0", 4),
        ("sample", "sample-4-1", 4),
        ("completed", 5, "final"),
    ]


def test_the_order_of_all_calls(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    run(
        trainer,
        around,
        [1],
        uploads=True,
        metric_every=1,
        checkpoint_every=1,
        sample_every=1,
        resume_state_payload={"a": 1},
        resume_checkpoint_path="/kept",
    )

    assert told == [
        "setup",
        "configure",
        ("load_state_dict", {"a": 1}),
        ("load_checkpoint", "/kept"),
        ("started", "run"),
        ("prepare", 1),
        ("step", 10),
        ("metric", "train/loss", 10.0, 1),
        ("upload", {"train/loss": 10.0}, 1),
        ("checkpoint", "step-1", 1),
        ("upload", "step-1", 1),
        ("sample", "sample-1-0", 1),
        ("upload", "sample-1-0", 1),
        ("sample", "sample-1-1", 1),
        ("upload", "sample-1-1", 1),
        "finalize",
        ("completed", 1, "final"),
    ]


def test_a_run_that_is_canceled_before_it_starts(
    trainer: Trainer, around: Surroundings, told: list[Any]
) -> None:
    around.cancels_at, around.cancel_reason = 0, "canceled"

    with pytest.raises(TrainingCanceled, match="canceled"):
        run(trainer, around, [1, 2], checkpoint_every=5)

    assert of(told, "failed", "checkpoint", "completed") == [("failed", 0, "canceled")]
    assert "finalize" not in told


def test_a_run_that_is_canceled_keeps_what_it_has_learned(
    trainer: Trainer, around: Surroundings, told: list[Any]
) -> None:
    around.cancels_at = 3

    with pytest.raises(TrainingCanceled) as raised:
        run(trainer, around, [1, 2, 3, 4, 5], uploads=True, checkpoint_every=2)

    assert raised.value.reason == "timeout"
    assert of(told, "checkpoint", "upload", "failed") == [
        ("checkpoint", "step-2", 2),
        ("upload", "step-2", 2),
        ("checkpoint", "step-3", 3),
        ("upload", "step-3", 3),
        ("failed", 3, "timeout"),
    ]


def test_what_is_kept_already_is_not_kept_again(
    trainer: Trainer, around: Surroundings, told: list[Any]
) -> None:
    around.cancels_at = 2

    with pytest.raises(TrainingCanceled):
        run(trainer, around, [1, 2, 3], checkpoint_every=2)

    assert of(told, "checkpoint") == [("checkpoint", "step-2", 2)]


def test_a_step_that_raises(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    trainer.fails_at = 2

    with pytest.raises(RuntimeError, match="the loss exploded"):
        run(trainer, around, [1, 2, 3], metric_every=1, checkpoint_every=5)

    assert of(told, "metric", "failed", "checkpoint", "completed") == [
        ("metric", "train/loss", 10.0, 1),
        ("failed", 2, "the loss exploded"),
    ]


def test_a_step_may_go_unreported(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    trainer.control[2] = StepControlHints(skip_cadence_emit=True)

    run(trainer, around, [1, 2, 3], metric_every=1, checkpoint_every=1, sample_every=1)

    assert [one[3] for one in of(told, "metric")] == [1, 3]
    assert [one[2] for one in of(told, "checkpoint")] == [1, 3]


def test_a_resumed_run(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    steps = run(trainer, around, [1, 2, 3], start_step=3, max_steps=5, checkpoint_every=4)

    assert steps == 5
    assert len(of(told, "step")) == 2
    assert of(told, "checkpoint") == [("checkpoint", "step-4", 4)]
    assert not of(told, "load_state_dict")


def test_no_steps_are_a_run(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    assert run(trainer, around, iter([1]), max_steps=0) == 0
    assert told == ["setup", "configure", ("started", "run"), "finalize", ("completed", 0, "final")]


def test_data_that_ends_is_the_end_of_the_run(trainer: Trainer, around: Surroundings) -> None:
    assert run(trainer, around, [1, 2]) == 2


def test_a_source_with_a_method(trainer: Trainer, around: Surroundings) -> None:
    class Feed:
        def iter_batches(self) -> list[int]:
            return [1, 2, 3]

    assert run(trainer, around, Feed()) == 3


def test_no_source(trainer: Trainer, around: Surroundings, told: list[Any]) -> None:
    with pytest.raises(TypeError, match="have to be iterable"):
        run(trainer, around, 7)

    assert of(told, "failed")


def test_a_reporter_that_fails_hides_nothing(trainer: Trainer, around: Surroundings) -> None:
    def fail(**_: Any) -> None:
        raise OSError("the disk is full")

    trainer.fails_at = 1
    around.failed = fail  # type: ignore[method-assign]

    with pytest.raises(RuntimeError, match="the loss exploded"):
        run(trainer, around, [1])


def test_an_upload_that_fails_says_so(
    trainer: Trainer, around: Surroundings, told: list[Any]
) -> None:
    def fail(**_: Any) -> dict[str, Any]:
        raise ArtifactUploadError("nobody is there")

    around.upload_checkpoint = fail  # type: ignore[method-assign]

    with pytest.raises(ArtifactUploadError):
        run(trainer, around, [1], uploads=True, checkpoint_every=1)

    assert of(told, "failed") == [("failed", 1, "upload:nobody is there")]


@pytest.mark.parametrize("returned", [None, [1], "state"])
def test_a_state_that_is_no_dict(trainer: Trainer, around: Surroundings, returned: Any) -> None:
    trainer.state_dict = lambda state: returned  # type: ignore[method-assign]

    with pytest.raises(TypeError, match="state_dict returned"):
        run(trainer, around, [1], checkpoint_every=1)


def test_a_wait_ends_with_the_run(trainer: Trainer, around: Surroundings) -> None:
    slept: list[float] = []
    trainer.control[1] = StepControlHints(backoff_seconds=0.12)
    trainer.control[2] = StepControlHints(backoff_seconds=3600.0)
    job = TrainingJobSpec("run", 5, metric_every=0)
    around.cancels_at = 9
    loop = TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=[1, 2, 3],
        reporter=around,
        artifact_writer=around,
        sleep=slept.append,
    )

    with pytest.raises(TrainingCanceled):
        loop.run()

    assert sum(slept[:3]) == pytest.approx(0.12)
    assert sum(slept) < 1.0
    assert (loop.completed, loop.phase) == (2, "input")


def test_the_run_is_completed_once_all_is_where_it_belongs(
    trainer: Trainer, around: Surroundings, told: list[Any]
) -> None:
    job = TrainingJobSpec("run", 1, metric_every=0)

    def finishing(path: str | None) -> None:
        told.append(("finishing", path))
        raise ArtifactUploadError("the hub is gone")

    loop = TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=[1],
        reporter=around,
        artifact_writer=around,
        finishing=finishing,
    )

    with pytest.raises(ArtifactUploadError):
        loop.run()

    assert told[-2:] == [("finishing", "final"), ("failed", 1, "upload:the hub is gone")]
    assert loop.phase == "upload"
