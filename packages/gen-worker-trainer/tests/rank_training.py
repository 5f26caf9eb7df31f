"""A job in several processes that draws from everything a run may draw from.

    python rank_training.py JOB ARTIFACTS

Each process writes `<log>-<rank>`: its number, what each step was, and hashes of its last state.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from rank_states import hashes_of

from gen_worker.settings import load
from gen_worker.trainer import StepContext, StepResult, run_training_runtime
from gen_worker.trainer.distributed.parallel import share_gradients, wrap
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.trainer.state import TrainingState

_ACCUMULATE = 2


class Trainer:
    """Learns from noisy rows, and takes a step of its optimizer every second batch."""

    def setup(self, ctx: StepContext) -> None:
        self._rank = os.environ.get("RANK", "0")
        self._log = open(f"{ctx.job.hyperparams['log']}-{self._rank}", "w")
        self._write(os.getpid())

    def _write(self, value: Any) -> None:
        print(json.dumps(value), file=self._log, flush=True)

    def configure(self, ctx: StepContext) -> TrainingState:
        parallel = ctx.job.hyperparams["parallel"]
        model, ema = wrap(_net(), parallel), wrap(_net(), parallel)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        self._is_shared = parallel == "ddp"
        return TrainingState(
            model,
            optimizer,
            ema=ema,
            extra={"noise": torch.Generator().manual_seed(3), "step": 0},
        )

    def prepare_batch(self, raw: Any, state: TrainingState, ctx: StepContext) -> Any:
        columns = raw.to_pydict()
        features = torch.tensor(columns["features"])
        features += 0.1 * torch.randn(features.shape, generator=state.extra["noise"])
        return columns["id"], features + random.gauss(0, 0.1)

    def train_step(self, batch: Any, state: TrainingState, ctx: StepContext) -> StepResult:
        ids, features = batch
        loss = (state.model(features) - features.sum(1, keepdim=True)).square().mean()
        (loss / _ACCUMULATE).backward()
        state.accumulated = ((state.accumulated or 0) + 1) % _ACCUMULATE
        if state.accumulated == 0:
            if self._is_shared:
                share_gradients([state.model], list(state.model.parameters()))
            state.optimizer.step()
            state.optimizer.zero_grad()
            with torch.no_grad():
                both = zip(state.ema.parameters(), state.model.parameters(), strict=True)
                for average, parameter in both:
                    average.mul_(0.9).add_(parameter, alpha=0.1)
        self._write([ids, loss.item().hex()])
        state.extra["step"] += 1
        if state.extra["step"] == ctx.job.max_steps:
            self._write(hashes_of(state))
        if state.extra["step"] == ctx.job.hyperparams.get("raise_at") and self._rank == "1":
            raise ValueError("no more")
        return StepResult({"loss": loss.item()})

    def state_dict(self, state: TrainingState) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: TrainingState, payload: Any, ctx: StepContext) -> None:
        """Nothing is left to do."""


def _net() -> Any:
    torch.manual_seed(1)
    layers = [torch.nn.Linear(4, 15), torch.nn.Dropout(0.3)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(15, 1))


def main(job: str, artifacts: str) -> int:
    torch.set_num_threads(1)
    return run_training_runtime(load(TrainerSettings, job_spec_path=job, artifacts_dir=artifacts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
