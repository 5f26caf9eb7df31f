"""What one process does in the tests of checkpoints of several; see `rank_scenes`.

python rank_states.py SCENE DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # type: ignore[import-not-found,unused-ignore]
from blake3 import blake3

from gen_worker.settings import load as load_settings
from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.distributed.group import open_world
from gen_worker.trainer.distributed.parallel import wrap
from gen_worker.trainer.distributed.place import place_of
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.trainer.state import TrainingState
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from gen_worker.trainer.distributed.world import World

_CTX = StepContext(TrainingJobSpec("run", 9))


class Net(torch.nn.Module):  # type: ignore[misc,unused-ignore]  # Any without torch
    """Uneven in every way: parts of different sizes, and of none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)])
        self.norm = torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 1, bias=False)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x).relu()
        return self.head(self.norm(x))


def whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def hashes_of(state: TrainingState) -> dict[str, str]:
    """Return a hash of every tensor, as it is when it is put together; collective."""
    found: dict[str, Any] = {f"model {name}": one for name, one in state.model.state_dict().items()}
    found |= {f"ema {name}": one for name, one in state.ema.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        found |= {f"optimizer {index} {name}": one for name, one in moments.items()}
    found |= {
        f"gradient {name}": one.grad
        for name, one in state.model.named_parameters()
        if one.grad is not None
    }
    hashes = {}
    for name, one in found.items():
        tensor = whole(one).detach().contiguous()
        body = tensor.view(-1).view(torch.uint8).numpy().tobytes()
        hashes[name] = f"{tensor.dtype} {list(tensor.shape)} {blake3(body).hexdigest()}"
    return hashes


def made(strategy: str, seed: int, rank: int) -> TrainingState:
    torch.manual_seed(seed)
    model, ema = wrap(Net(), strategy), wrap(Net(), strategy)
    generator = torch.Generator().manual_seed(100 * seed + rank)
    return TrainingState(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.01),
        ema=ema,
        extra={"noise": generator, "rank": rank},
    )


def learn(state: TrainingState) -> None:
    for number in range(3):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(number))
        state.optimizer.zero_grad()
        state.model(x).square().mean().backward()
        if number < 2:
            state.optimizer.step()


def keep(directory: Path, strategy: str, *, world: World) -> TrainingState:
    state = made(strategy, 1, world.rank)
    learn(state)
    writer = LocalArtifactWriter(
        checkpoints_dir=directory / strategy, samples_dir=directory, world=world, small_bytes=0
    )
    writer.begin_checkpoint(step=3, state_payload={}, trainer=None, state=state, ctx=_CTX)
    list(writer.ended_checkpoints(wait=True))
    writer.close()
    return state


def load(directory: Path, strategy: str, into: str, *, world: World) -> TrainingState:
    state = made(into, 2, world.rank)
    restore_training_state(state, str(directory / strategy / "step-00000003"), world)
    return state


def main(directory: Path, scenes: list[str]) -> None:
    with open_world(place_of(load_settings(TrainerSettings))) as world:
        for scene in scenes:
            does, *strategies = scene.split("-")
            play = keep if does == "keep" else load
            state = play(directory, *strategies, world=world)
            told = {
                "hashes": hashes_of(state),
                "rank": state.extra["rank"],
                "drawn": torch.rand(1, generator=state.extra["noise"]).item(),
            }
            (directory / f"{scene}.{world.size}.{world.rank}").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
