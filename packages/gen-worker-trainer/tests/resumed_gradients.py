"""A small `GradientTrainer` with all options on, and memory and numbers that fail.

Like `resumed_run`, which see.

    python resumed_gradients.py DIRECTORY STEPS LOG
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import resumed_run  # type: ignore[import-not-found,unused-ignore]
import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.trainer import GradientState, GradientTrainer, Loss, StepContext, StepResult
from gen_worker.trainer.state.rng import seed_everything

_FULL_FROM = 17
"""The micro-batch from which on there is room for two rows only."""


class Trainer(GradientTrainer):
    """Learns from noisy rows of another weight each."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._ids: list[Any] = []

    def setup(self, ctx: StepContext) -> None:
        seed_everything(7)

    def build(self, ctx: StepContext) -> Any:
        return torch.nn.Sequential(
            torch.nn.Linear(4, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(16, 1),
        )

    def configure(self, ctx: StepContext) -> GradientState:
        state = super().configure(ctx)
        state.extra["augmentation"] = torch.Generator().manual_seed(3)
        state.extra["micro"] = 0
        return state

    def prepare_batch(self, raw: Any, state: Any, ctx: StepContext) -> Any:
        columns = raw.to_pydict()
        features = torch.tensor(columns["features"], dtype=torch.float32)
        features += 0.1 * torch.randn(features.shape, generator=state.extra["augmentation"])
        self._ids.append(columns["id"])
        state.extra["micro"] += 1
        return {"id": columns["id"], "x": features}

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        x = batch["x"]
        if state.extra["micro"] > _FULL_FROM and len(x) > 2:
            raise torch.OutOfMemoryError("fake")
        x = x + 0.1 * torch.randn(x.shape, generator=state.extra["augmentation"])
        weight = float(sum(batch["id"]) % 7)
        value = (state.model(x + torch.randn(x.shape)) - x.sum(1, keepdim=True)).square().mean()
        return Loss(value * (float("nan") if 1005 in batch["id"] else 1.0), weight)

    def optimizer_step(self, state: Any, ctx: StepContext) -> StepResult:
        result = super().optimizer_step(state, ctx)
        line = [self._ids, {name: float(one).hex() for name, one in result.metrics.items()}]
        print(json.dumps(line), file=self._log, flush=True)
        self._ids = []
        return result


if __name__ == "__main__":
    resumed_run.main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Trainer,
        gradient_accumulation_steps=3,
        micro_batch_size=3,
        ema_decay=0.9,
        dtype="bf16",
        lr=0.01,
        warmup_ratio=0.1,
        weight_decay=0.1,
    )
