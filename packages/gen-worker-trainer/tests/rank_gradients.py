"""What one process learns in the tests of gradients of several.

    python rank_gradients.py PARALLEL DIRECTORY

Each has another share of the rows, and the second has little memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.settings import load
from gen_worker.trainer import GradientTrainer, Loss, StepContext, TrainingJobSpec
from gen_worker.trainer.distributed.group import open_world
from gen_worker.trainer.distributed.place import place_of
from gen_worker.trainer.settings import TrainerSettings

_STEPS = 4
_ROWS = 8
_FIRST_ROWS = 2
"""Of each batch; the second process has the others."""


class Net(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
        self.head = torch.nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x).tanh()
        return self.head(x).squeeze(1)


class Trainer(GradientTrainer):
    most_rows = 10**9

    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return Net()

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        if len(batch["x"]) > self.most_rows:
            raise torch.OutOfMemoryError("fake")
        wrong = state.model(batch["x"]) - batch["y"]
        tokens = float(batch["tokens"].sum())
        return Loss((wrong.square() * batch["tokens"]).sum() / tokens, tokens)


def batch(number: int, share: slice) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(number)
    rows = {
        "x": torch.randn(_ROWS, 4, generator=chance),
        "y": torch.randn(_ROWS, generator=chance),
        "tokens": torch.randint(1, 9, (_ROWS,), generator=chance).float(),
    }
    return {name: column[share] for name, column in rows.items()}


def whole(value: Any) -> Any:
    value = value.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).tolist()


def learn(parallel: str, rank: int | None) -> dict[str, Any]:
    shares = {None: slice(None), 0: slice(_FIRST_ROWS), 1: slice(_FIRST_ROWS, None)}
    hyperparams = {
        "dtype": "fp32",
        "lr": 0.05,
        "max_grad_norm": 0.2,
        "ema_decay": 0.5,
        "gradient_accumulation_steps": 2,
        "parallel": parallel,
    }
    ctx = StepContext(TrainingJobSpec("run", _STEPS, hyperparams=hyperparams), device="cpu")
    trainer = Trainer()
    if rank == 1 and parallel == "ddp":
        trainer.most_rows = 3
    state = trainer.configure(ctx)
    metrics = []
    for step in range(_STEPS):
        count = 1 if step == _STEPS - 1 else 2  # the data end within the last step
        for micro in range(count):
            trainer.train_step(batch(2 * step + micro, shares[rank]), state, ctx)
        found = trainer.optimizer_step(state, ctx).metrics
        metrics.append([found["loss"], found["train/grad_norm"]])
    weights = [whole(one) for one in state.model.parameters()]
    with state.evaluating():
        averages = [whole(one) for one in state.model.parameters()]
    rows = state.progress["micro_batch_size"]
    return {"metrics": metrics, "weights": weights, "averages": averages, "rows": rows}


def main(parallel: str, directory: Path) -> None:
    place = place_of(load(TrainerSettings))
    with open_world(place):
        said = learn(parallel, None if place is None else place.rank)
    rank = "alone" if place is None else str(place.rank)
    (directory / f"{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
