"""An endpoint that trains: a project of one file, for platforms and for workers of their own."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker import training
from gen_worker.trainer import StepResult, TrainingContext, train
from gen_worker.types import ProducedFlavor  # noqa: TC001  # read when it is decorated

if TYPE_CHECKING:
    from pathlib import Path


class Tune(msgspec.Struct):
    steps: int
    destination: dict[str, Any] = {}
    flag: str = ""
    """A file that tells of each step, one line each."""
    pause_at: int = 0
    """The step at which it waits as long as there is a file `<flag>.pause`."""
    fails_at: int = 0


class Tuner:
    """Adds up what it is given, one number a step."""

    def setup(self, ctx: Any) -> None:
        self.wishes = dict(ctx.job.hyperparams)

    def configure(self, ctx: Any) -> dict[str, Any]:
        del ctx
        return {"sum": 0, "seen": [], "generate_sample": self.sample}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: Any) -> int:
        del state, ctx
        return int(raw_batch["x"])

    def train_step(self, batch: int, state: dict[str, Any], ctx: Any) -> StepResult:
        step = len(state["seen"]) + 1
        if step == self.wishes["fails_at"]:
            raise RuntimeError("the loss exploded")
        state["sum"] += batch
        state["seen"].append(batch)
        self._tell(step)
        if step == self.wishes["pause_at"]:
            while os.path.exists(self.wishes["flag"] + ".pause") and not ctx.is_canceled():
                time.sleep(0.01)
        return StepResult(metrics={"loss": 1.0 / step})

    def state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"sum": state["sum"], "seen": state["seen"]}

    def load_state_dict(self, state: dict[str, Any], payload: dict[str, Any], ctx: Any) -> None:
        del ctx
        state |= payload

    def save_checkpoint(
        self, *, state: Any, step: int, output_dir: Path, final: bool, ctx: Any
    ) -> dict[str, Any]:
        del step, final, ctx
        (output_dir / "sum.json").write_text(json.dumps(state["sum"]))
        return {"primary_path": "sum.json"}

    def sample(self, *, prompt: str) -> dict[str, Any]:
        return {"made": prompt.upper()}

    def _tell(self, step: int) -> None:
        if self.wishes["flag"]:
            with open(self.wishes["flag"], "a") as file:
                file.write(f"{os.getpid()} {step}\n")


@training
class Tuning:
    def setup(self) -> None: ...

    @training.function
    def tune(self, ctx: TrainingContext, payload: Tune) -> list[ProducedFlavor]:
        run = train(
            ctx,
            Tuner,
            {
                "max_steps": payload.steps,
                "metric_every": 1,
                "checkpoint_every": 2,
                "sample_every": 3,
                "sample_prompts": ["a red cube"],
                "mock_batches": [{"x": number} for number in range(1, payload.steps + 1)],
                "hyperparams": {
                    "pause_at": payload.pause_at,
                    "flag": payload.flag,
                    "fails_at": payload.fails_at,
                },
            },
        )
        ctx.emit("tuned", {"loss": run.metrics["train/loss"], "step": run.step})
        return run.flavors(base="none")
