"""What it takes to decide which of 200 workers gets a request.

The peer, in this file, is a bare loop over the same workers: the first that offers the function,
has the model and is free.

    python bench/placement.py [--save]
"""

from __future__ import annotations

import random
from time import perf_counter
from typing import TYPE_CHECKING

from harness import paired, save

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler.decisions import ModelNeed, Needs, Policy, Prediction
from gen_worker.runtime.scheduler.placement import place
from gen_worker.runtime.scheduler.snapshots import (
    DeviceState,
    Hardware,
    InOrder,
    Resident,
    WorkerState,
    nearby,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Row

PER_BLOCK = 100
GIB = 1024**3
NOW = 1000.0
MODELS = [f"acme/model-{number}:prod" for number in range(150)]
HARDWARE = Hardware("GPU", 24 * GIB, 8.9)


def pool(busy: float) -> InOrder:
    """Return 200 workers with two models each, of which so many are busy."""
    dice = random.Random(1)
    workers = [
        WorkerState(
            worker_id=f"worker-{number}",
            functions=frozenset({"paint", "describe"}),
            hardware=HARDWARE,
            gpus=(
                DeviceState.of(
                    ends_at=(NOW + dice.uniform(0.5, 5.0),) if dice.random() < busy else (),
                    models={
                        ref: Resident(0.0, dice.uniform(1.0, NOW), 10 * GIB)
                        for ref in dice.sample(MODELS, 2)
                    },
                    free_bytes=2 * GIB,
                ),
            ),
            nearby=nearby(disk=dice.sample(MODELS, 50)),
            heard_at=NOW,
        )
        for number in range(200)
    ]
    return InOrder(sorted(workers, key=lambda worker: worker.worker_id))


def needs(ref: str) -> Needs:
    return Needs(
        function="paint",
        resources=Resources(accelerator="cuda"),
        models=(ModelNeed(ref, 10 * GIB, 1.0, 10.0, 60.0),),
        predictions={"GPU": Prediction(11 * GIB, 2.0)},
        backlog_s=4.0,
    )


def bare(function: str, ref: str, workers: Sequence[WorkerState]) -> WorkerState | None:
    found = None
    for worker in workers:
        if function in worker.functions:
            for device in worker.gpus:
                if ref in device.models and not device.free_at and found is None:
                    found = worker
    return found


def row(name: str, workers: InOrder, ref: str) -> Row:
    wanted, policy, needed = needs(ref), Policy(), frozenset(MODELS[:75])

    def ours() -> float:
        begin = perf_counter()
        for _ in range(PER_BLOCK):
            place(wanted, workers, now=NOW, policy=policy, needed=needed)
        return (perf_counter() - begin) * 1e6 / PER_BLOCK

    def peer() -> float:
        begin = perf_counter()
        for _ in range(PER_BLOCK):
            bare("paint", ref, workers)
        return (perf_counter() - begin) * 1e6 / PER_BLOCK

    return paired(
        name,
        ours,
        peer,
        unit="us",
        peer_source="bench/placement.py",
        goal="<= 200 us",
        passes=lambda ours, peer, ratio: ours <= 200,
    )


def main() -> None:
    idle, half, full = pool(0.0), pool(0.5), pool(1.0)
    save(
        "placement",
        [
            row("200 idle workers, model on some", idle, MODELS[0]),
            row("200 idle workers, model nowhere", idle, "acme/other:prod"),
            row("200 workers, half of them busy", half, MODELS[0]),
            row("200 workers, all of them busy", full, MODELS[0]),
        ],
    )


if __name__ == "__main__":
    main()
