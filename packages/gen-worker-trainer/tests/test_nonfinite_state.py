"""A state with numbers that JSON has no word for comes back as it was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, StepResult, TrainingJobSpec
from gen_worker.trainer.data import MockBatches
from gen_worker.trainer.loop import TrainingLoop
from gen_worker.trainer.loop.nonfinite import nonfinite_in, put_back
from gen_worker.trainer.reporter import LocalTrainingReporter
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from pathlib import Path

STATE: dict[str, Any] = {
    "best": math.inf,
    "none": None,
    "history": [1.0, -math.inf, {"deep": (2.0, math.nan)}],
}


class Trainer:
    def __init__(self) -> None:
        self.loaded: Any = None

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        return StepResult({"loss": 1.0})

    def state_dict(self, state: Any) -> dict[str, Any]:
        return STATE

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        self.loaded = payload


def run(folder: Path, steps: int, trainer: Trainer, **kept: Any) -> Any:
    writer = LocalArtifactWriter(
        checkpoints_dir=folder / "checkpoints", samples_dir=folder / "samples"
    )
    job = TrainingJobSpec("run", steps)
    try:
        TrainingLoop(
            job=job,
            ctx=StepContext(job),
            trainer=trainer,
            batches=MockBatches([1, 2, 3]),
            reporter=LocalTrainingReporter(),
            artifact_writer=writer,
            **kept,
        ).run()
        return writer.store.newest()
    finally:
        writer.close()


def test_what_a_checkpoint_has_kept_is_loaded_again(tmp_path: Path) -> None:
    found = run(tmp_path, 1, Trainer()).checkpoint
    assert found.state["best"] is None, "it is JSON"
    trainer = Trainer()

    run(
        tmp_path,
        2,
        trainer,
        start_step=1,
        resume_state_payload=found.state,
        resume_runtime=found.runtime,
    )

    loaded = trainer.loaded
    assert (loaded["best"], loaded["none"]) == (math.inf, None)
    assert loaded["history"][:2] == [1.0, -math.inf]
    assert math.isnan(loaded["history"][2]["deep"][1])


@pytest.mark.parametrize("state", [{}, {"a": 1.5, "b": [True, "inf", None]}])
def test_of_finite_numbers_nothing_is_noted(state: dict[str, Any]) -> None:
    assert nonfinite_in(state) == []


def test_what_has_a_value_keeps_it() -> None:
    state = {"best": 3.0}
    put_back(state, [[["best"], "inf"]])
    assert state == {"best": 3.0}
