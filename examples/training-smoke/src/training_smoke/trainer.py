"""The trainer class: what is learned, and how. Everything around it is the runtime's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gen_worker.trainer import StepContext, StepResult

from training_smoke.bigrams import Adam, Matrix, base_logits, learn, pairs_of, write

WEIGHTS = "weights.json"
OPTIMIZER = "optimizer.json"


class State:
    """What a run learns."""

    def __init__(self, learning_rate: float) -> None:
        self.logits: Matrix = base_logits()
        self.optimizer = Adam(learning_rate)
        self.seen: list[str] = []
        """The first words of the texts of each step, so that a resumed run can be compared."""

    def generate_sample(self, *, prompt: str, seed: int | None) -> dict[str, Any]:
        """Called for each of the job's `sample_prompts` whenever samples are due."""
        return {"text": write(self.logits, prompt, seed or 0)}


class Finetune:
    """Teaches a general model of English letters how somebody in particular writes."""

    def setup(self, ctx: StepContext) -> None:
        """Called first: for what takes long and is no state."""

    def configure(self, ctx: StepContext) -> State:
        return State(float(ctx.job.hyperparams.get("learning_rate", 0.05)))

    def prepare_batch(self, raw_batch: dict[str, Any], state: State, ctx: StepContext) -> list[str]:
        """Leave some words out; what is drawn is kept with a checkpoint, too."""
        return [
            " ".join(word for word in text.split() if random.random() > 0.1)
            for text in raw_batch["texts"]
        ]

    def train_step(self, batch: list[str], state: State, ctx: StepContext) -> StepResult:
        learned = learn(state.logits, [pair for text in batch for pair in pairs_of(text)])
        state.optimizer.step(state.logits, learned.gradient)
        state.seen.append(batch[0][:12])
        return StepResult(metrics={"loss": learned.loss, "lr": state.optimizer.learning_rate})

    # -- what is kept ------------------------------------------------------------------------------

    def state_dict(self, state: State) -> dict[str, Any]:
        """Return what is small; the rest goes into files."""
        return {"steps": state.optimizer.steps, "seen": state.seen}

    def load_state_dict(self, state: State, payload: dict[str, Any], ctx: StepContext) -> None:
        state.optimizer.steps = payload["steps"]
        state.seen = payload["seen"]

    def save_checkpoint(
        self, *, state: State, step: int, output_dir: Path, final: bool, ctx: StepContext
    ) -> dict[str, Any]:
        (output_dir / WEIGHTS).write_text(json.dumps(state.logits))
        moments = {"means": state.optimizer.means, "squares": state.optimizer.squares}
        (output_dir / OPTIMIZER).write_text(json.dumps(moments))
        return {"primary_path": WEIGHTS, "format": "bigrams"}

    def load_checkpoint(
        self, *, state: State, checkpoint_dir: str, payload: dict[str, Any], ctx: StepContext
    ) -> None:
        folder = Path(checkpoint_dir)
        state.logits = json.loads((folder / WEIGHTS).read_text())
        moments = json.loads((folder / OPTIMIZER).read_text())
        state.optimizer.means, state.optimizer.squares = moments["means"], moments["squares"]
