"""The loop drives a `GradientTrainer`: it accumulates, evaluates averages, and minds numbers."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.trainer import GradientTrainer, Loss, StepContext, TrainingJobSpec
from gen_worker.trainer.errors import LossError
from gen_worker.trainer.loop import TrainingLoop
from gen_worker.trainer.loop.evaluation import Evaluation
from gen_worker.trainer.loop.finite import FiniteLoss, SkippedUpdates


class Trainer(GradientTrainer):
    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return torch.nn.Linear(2, 1)

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        rows = torch.tensor(batch["x"])
        wrong = state.model(rows) - rows.sum(1, keepdim=True)
        return Loss(wrong.square().mean(), len(rows), {"tokens": 10.0 * len(rows)})


class Told:
    """Remembers what is reported."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, int], float] = {}

    def metric(self, *, name: str, value: float, step: int) -> None:
        self.metrics[name, step] = value

    def is_canceled(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda **_: None


class Nowhere:
    """Keeps nothing."""

    def write_checkpoint(self, **_: Any) -> str:
        return ""

    def write_samples(self, **_: Any) -> list[str]:
        return []

    def finalize(self, **_: Any) -> None: ...


def loop_of(
    batches: list[Any], steps: int, *parts: Any, **hyperparams: Any
) -> tuple[TrainingLoop, Told]:
    given = {"dtype": "fp32", "lr": 0.1, **hyperparams}
    job = TrainingJobSpec("run", steps, metric_every=1, hyperparams=given)
    told: Any = Told()
    nowhere: Any = Nowhere()
    loop = TrainingLoop(
        job=job,
        ctx=StepContext(job, device="cpu"),
        trainer=Trainer(),
        batches=batches,
        reporter=told,
        artifact_writer=nowhere,
        parts=parts,
    )
    return loop, told


def run(batches: list[Any], steps: int, *parts: Any, **hyperparams: Any) -> tuple[Any, Told]:
    loop, told = loop_of(batches, steps, *parts, **hyperparams)
    loop.run()
    return loop.state, told


def rows(count: int, value: float = 1.0) -> dict[str, Any]:
    return {"x": [[value * number, 1.0] for number in range(count)]}


def test_the_loop_accumulates() -> None:
    one, whole = run([rows(8)] * 2, 2)
    batches = [{"x": rows(8)["x"][:3]}, {"x": rows(8)["x"][3:]}]
    state, told = run(batches * 2, 2, gradient_accumulation_steps=2)
    for name in ("train/loss", "train/grad_norm", "tokens", "weight", "train/lr"):
        for step in (1, 2):
            assert told.metrics[name, step] == pytest.approx(whole.metrics[name, step], rel=1e-5)
    assert told.metrics["tokens", 1] == 80
    torch.testing.assert_close(state.model.weight, one.model.weight)


def test_evaluation_weighs_batches_by_their_rows() -> None:
    evaluation = Evaluation(1, lambda *_: [rows(1), rows(3)])
    state, told = run([rows(4)], 1, evaluation, ema_decay=0.5)
    with state.evaluating():
        losses = [
            (state.model(x) - x.sum(1, keepdim=True)).square().mean().item()
            for x in (torch.tensor(rows(1)["x"]), torch.tensor(rows(3)["x"]))
        ]
    expected = (losses[0] + 3 * losses[1]) / 4
    assert told.metrics["eval/loss", 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("in_both", [False, True])
def test_steps_of_no_numbers_are_left_out(in_both: bool) -> None:
    bad = rows(4, float("nan"))
    batches = [rows(4), rows(4), rows(4), bad, rows(4), rows(4)]
    if in_both:
        batches[2] = bad
    state, told = run(batches, 3, SkippedUpdates(), gradient_accumulation_steps=2)
    other, _ = run(batches[:2] + batches[4:], 3, gradient_accumulation_steps=2)
    assert state.progress["skipped_steps"] == 1
    assert told.metrics["trainer/skipped_steps", 3] == 1
    assert torch.equal(state.model.weight, other.model.weight)


def test_a_run_that_fails_leaves_its_weights_as_they_were() -> None:
    before, _ = run([rows(4)], 2)
    batches = [rows(4), rows(4, float("nan"))]
    loop, _ = loop_of(batches, 2, FiniteLoss(is_fatal=True))
    with pytest.raises(LossError, match="step 2 is nan"):
        loop.run()
    assert torch.equal(loop.state.model.weight, before.model.weight)
