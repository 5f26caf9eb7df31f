"""A trainer of a model and a loss learns, step by step, as a plain loop of torch would."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gen_worker.trainer import (  # noqa: E402
    GradientState,
    GradientTrainer,
    StepContext,
    TrainingJobSpec,
)


class Regression(GradientTrainer):
    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return torch.nn.Linear(4, 1)

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        return (state.model(batch["x"]) - batch["y"]).square().mean()


def context(max_steps: int = 5, **hyperparams: Any) -> StepContext:
    job = TrainingJobSpec("run", max_steps, hyperparams={"dtype": "fp32", **hyperparams})
    return StepContext(job, device="cpu")


def batch(rows: int, seed: int) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(rows, 4, generator=chance),
        "y": torch.randn(rows, 1, generator=chance),
    }


def test_steps_are_those_of_a_plain_loop() -> None:
    ctx = context(lr=0.01, max_grad_norm=0.5)
    trainer = Regression()
    state = trainer.configure(ctx)
    assert isinstance(state, GradientState)
    model = Regression().build(ctx)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    for step in range(5):
        rows = batch(8, step)
        trainer.train_step(trainer.prepare_batch(rows, state, ctx), state, ctx)
        metrics = trainer.optimizer_step(state, ctx).metrics

        loss = (model(rows["x"]) - rows["y"]).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert metrics["loss"] == loss.item()
        assert metrics["train/grad_norm"] == norm.item()
        assert metrics["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    for mine, plain in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-7)
