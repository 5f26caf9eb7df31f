"""What one process of a run does in the tests of several; told which by its arguments.

    python rank_scenes.py DIRECTORY SCENE...

Where a process says something, it does so in `DIRECTORY/SCENE/<rank>.json`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_worker.settings import load
from gen_worker.trainer import StepResult
from gen_worker.trainer.data import MockBatches
from gen_worker.trainer.data.shares import Shares
from gen_worker.trainer.distributed.agreement import first_does, together
from gen_worker.trainer.distributed.group import open_world
from gen_worker.trainer.distributed.place import place_of
from gen_worker.trainer.loop import Run
from gen_worker.trainer.loop.evaluation import evaluate
from gen_worker.trainer.loop.reporting import Reporting
from gen_worker.trainer.reporter import LocalTrainingReporter
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.trainer.state.rng import part_ways, seed_everything

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.distributed.world import World

SAY: dict[str, Any] = {}
ALSO_ALONE = ("evaluates",)


def agrees(world: World, directory: Path) -> None:
    """All collectives, and some from a thread beside."""
    SAY["place"] = [world.rank, world.size, world.local_rank, world.is_first]
    SAY["any"] = [world.any(False), world.any(world.rank == 1), world.any(False)]
    SAY["told"] = [world.broadcast([world.rank, number]) for number in range(3)]
    SAY["long"] = len(world.broadcast("x" * 1_000_000 if world.is_first else ""))
    beside = world.beside()
    said: list[Any] = []
    thread = threading.Thread(
        target=lambda: said.extend([beside.any(world.rank == 0), beside.broadcast(world.rank + 5)])
    )
    thread.start()
    SAY["while"] = [world.any(number == 7) for number in range(10)]
    thread.join()
    SAY["beside"] = said
    SAY["first"] = first_does(world, lambda: {"by": world.rank})
    SAY["together"] = together(world, lambda: world.rank)
    world.barrier()
    SAY["drawn"] = [drawn(world), drawn(world)]


def drawn(world: World) -> list[float]:
    """Return what is drawn after the same seed in each process."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    seed_everything(5)
    part_ways(world.rank)
    return [random.random(), torch.rand(1).item()]


class Evaluated:
    """Says of a batch, which is a list of numbers, what their mean is."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def prepare_batch(self, raw: list[float], state: Any, ctx: Any) -> list[float]:
        return raw

    def eval_step(self, batch: list[float], state: Any, ctx: Any) -> StepResult:
        self.seen.append(batch)
        some = {"most": max(batch)} if len(batch) > 1 else {}
        mean = sum(batch) / len(batch)
        return StepResult({"loss": mean, "weight": len(batch), "tokens": len(batch), **some})

    def eval_end(self, state: Any, ctx: Any, *, metrics: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": math.exp(metrics["loss"])} if metrics else {}


def evaluates(world: World, directory: Path) -> None:
    """Data of each length, from none."""
    SAY["metrics"], SAY["seen"] = [], []
    for count in range(len(EVALUATED) + 1):
        trainer: Any = Evaluated()
        ctx: Any = None
        run = Run(ctx=ctx, trainer=trainer, world=world, reporting=quiet(world), step=0)
        data = Shares(MockBatches(EVALUATED[:count]), world.rank, world.size)
        SAY["metrics"].append(evaluate(run, data))
        SAY["seen"].append(trainer.seen)


EVALUATED = [[0.5], [0.25, 0.1, 0.7], [0.3, 0.9], [0.2], [0.4, 0.6, 0.1, 0.35], [0.15, 0.85]]


def quiet(world: World) -> Reporting:
    """Return what tells nobody of a run, and is never asked to stop."""
    return Reporting(LocalTrainingReporter(is_heard=False), None, (), world)


def fails(world: World, directory: Path) -> None:
    """The last process raises while the first waits for it."""
    if world.rank == 1:
        raise ValueError("the cat ate it")
    world.any(False)


def fails_first(world: World, directory: Path) -> None:
    """The first process raises while the other waits for its value."""
    first_does(world, lambda: 1 // 0)


def fails_together(world: World, directory: Path) -> None:
    together(world, lambda: 1 // world.rank)


def fails_amid(world: World, directory: Path) -> None:
    """The second process raises while the first is in the midst of what both were to do."""
    together(world, lambda: amid(world, failing=1))


def fails_first_amid(world: World, directory: Path) -> None:
    """The first one does; the store at which all have met is its own."""
    together(world, lambda: amid(world, failing=0))


def fails_at_length(world: World, directory: Path) -> None:
    """The second one raises, and is not through with its end before the first one is."""
    try:
        together(world, lambda: 1 // (1 - world.rank))
    except ZeroDivisionError:
        while not (directory / "0.over").exists():
            time.sleep(0.01)
        raise
    except BaseException:
        (directory / "0.over").touch()
        raise


def amid(world: World, *, failing: int) -> None:
    """Exchange tensors over the process group that authors use, unless this one is to fail."""
    if world.rank == failing:
        raise OSError("the disk is full")
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.distributed.all_reduce(torch.ones(3))


def dies(world: World, directory: Path) -> None:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.broadcast(1)
    world.any(False)


def dies_first(world: World, directory: Path) -> None:
    if world.is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    world.broadcast(1)


def dies_meeting(world: World, directory: Path) -> None:
    """Never come here: see `_meet_the_dying`."""
    raise AssertionError("they have met")


def _meet_the_dying(store: Any, rank: int) -> None:
    """Take the place of what follows once all have found each other."""
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # until the store is gone, which raises
        store.check(["anything"])
        time.sleep(0.02)


def main(scene: str, directory: Path) -> None:
    if scene == "dies_meeting":
        vars(importlib.import_module(open_world.__module__))["Failures"] = _meet_the_dying
    place = place_of(load(TrainerSettings)) if "RANK" in os.environ else None
    try:
        with open_world(place) as world:
            globals()[scene](world, directory)
    except BaseException as error:
        SAY["error"] = [type(error).__name__, str(error)]
        raise
    finally:
        rank = "alone" if place is None else str(place.rank)
        (directory / f"{rank}.json").write_text(json.dumps(SAY))


def play(scene: str, directory: Path, rank: int, port: int) -> int:
    """Have a fork of this process be one of two; return its number."""
    if pid := os.fork():
        return pid
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        main(scene, directory)
    except BaseException:
        os._exit(1)
    os._exit(0)


def play_all(directory: Path, scenes: list[str]) -> None:
    """Play one scene after the other, and note how the processes ended."""
    for scene in scenes:
        (directory / scene).mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        pids = [play(scene, directory / scene, rank, port) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if scene in ALSO_ALONE:
            main(scene, directory / scene)
        (directory / scene / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    importlib.import_module("torch.distributed")  # for seconds, and once for all
    play_all(Path(sys.argv[1]), sys.argv[2:])
