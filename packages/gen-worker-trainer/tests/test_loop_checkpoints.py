"""What the loop does while checkpoints are on their way, and where it goes on after them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, StepResult, TrainingJobSpec
from gen_worker.trainer.data import MockBatches
from gen_worker.trainer.errors import TrainingCanceled
from gen_worker.trainer.loop import TrainingLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Trainer:
    """Draws a number each step, and at everything else."""

    def __init__(self) -> None:
        self.drawn: list[float] = []
        self.fails_at = 0

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        random.random()

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.drawn.append(random.random())
        if len(self.drawn) == self.fails_at:
            raise RuntimeError("the loss exploded")
        return StepResult({"loss": float(batch)})

    def state_dict(self, state: Any) -> dict[str, Any]:
        random.random()
        return {}


class Surroundings:
    """A reporter, and a writer of which a test says when its checkpoints arrive."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.kept: dict[int, Any] = {}
        self.on_the_way: list[tuple[str, int]] = []
        self.arrives: Callable[[int], bool] = lambda step: False
        self.error: Exception | None = None
        self.is_asked = False
        self.cancel_reason = "canceled"

    def begin_checkpoint(self, *, step: int, runtime: Any, metrics: Any, **_: Any) -> None:
        self.told.append(("begin", step))
        self.kept[step] = runtime
        self.on_the_way.append((f"step-{step}", step))

    def ended_checkpoints(self, *, wait: bool) -> Iterator[tuple[str, int]]:
        while self.on_the_way and (wait or self.arrives(self.on_the_way[0][1])):
            yield self.on_the_way.pop(0)
        error, self.error = self.error, None
        if error is not None:
            raise error

    def write_samples(self, **_: Any) -> list[str]:
        random.random()
        return []

    def finalize(self, *, step: int, runtime: Any, **_: Any) -> str:
        self.told.append("finalize")
        self.kept[step] = runtime
        return "final"

    def is_canceled(self) -> bool:
        return self.is_asked

    def phase(self, *, phase: str, step: int) -> None: ...
    def __getattr__(self, name: str) -> Any:
        return lambda **told: self.told.append((name, told.get("step")))


class Canceling(Trainer):
    """Is told to stop while it does a step."""

    def __init__(self, around: Surroundings, at: int) -> None:
        super().__init__()
        self._around = around
        self._at = at

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        result = super().train_step(batch, state, ctx)
        self._around.is_asked = len(self.drawn) >= self._at
        return result


def loop(trainer: Trainer, around: Any, steps: int, batches: Any = None, **more: Any) -> Any:
    job = TrainingJobSpec("run", steps, metric_every=0, checkpoint_every=2, sample_every=3)
    return TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=batches or MockBatches(range(10)),
        reporter=around,
        artifact_writer=around,
        uploader=around,
        **more,
    )


def test_a_checkpoint_is_told_of_when_it_is_there() -> None:
    around = Surroundings()
    around.arrives = lambda step: ("begin", 4) in around.told

    loop(Trainer(), around, 5).run()

    assert around.told == [
        ("started", None),
        ("begin", 2),
        ("begin", 4),
        ("checkpoint", 2),
        ("upload_checkpoint", 2),
        ("checkpoint", 4),
        ("upload_checkpoint", 4),
        "finalize",
        ("completed", 5),
    ]


def test_a_run_that_is_canceled_waits_for_its_last_checkpoint() -> None:
    around = Surroundings()

    with pytest.raises(TrainingCanceled):
        loop(Canceling(around, 3), around, 9).run()

    assert [one for one in around.told if one[0] in ("begin", "checkpoint", "failed")] == [
        ("begin", 2),
        ("begin", 3),
        ("checkpoint", 2),
        ("checkpoint", 3),
        ("failed", 3),
    ]


def test_a_run_that_fails_waits_for_its_last_checkpoint() -> None:
    """What made it fail is what is told, even if the disk does not take the checkpoint."""
    around, trainer = Surroundings(), Trainer()
    trainer.fails_at = 3

    def step(batch: Any, state: Any, ctx: StepContext) -> StepResult:
        if len(trainer.drawn) == 2:
            around.error = OSError("the disk is full")
        return Trainer.train_step(trainer, batch, state, ctx)

    trainer.train_step = step  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the loss exploded"):
        loop(trainer, around, 9).run()

    assert [one for one in around.told if one[0] in ("checkpoint", "failed")] == [
        ("checkpoint", 2),
        ("failed", 3),
    ]


def test_a_disk_that_fails_is_told_at_the_next_step() -> None:
    around, trainer = Surroundings(), Trainer()
    around.error = OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        loop(trainer, around, 9).run()

    assert trainer.drawn == []
    assert around.told[-1] == ("failed", 0)


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_the_same_is_drawn_whether_a_run_was_stopped_or_not(at: int) -> None:
    around = Surroundings()
    whole, first, second = Trainer(), Canceling(around, at), Trainer()
    random.seed(0)
    loop(whole, Surroundings(), 8).run()
    random.seed(0)
    batches = MockBatches(range(10))
    with pytest.raises(TrainingCanceled):
        loop(first, around, 8, batches).run()

    random.seed(5)
    runtime = around.kept[at]
    again = MockBatches(range(10))
    more = {"start_step": at, "resume_state_payload": {}, "resume_runtime": runtime}
    loop(second, Surroundings(), 8, again, **more).run()

    assert first.drawn + second.drawn == whole.drawn
    assert again.cursor().batch == 8
