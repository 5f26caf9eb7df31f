"""What a checkpoint costs a run: the stall of 200 MB of state, and what its writing takes later.

The state is a model of 50 MB, its AdamW state and averages. The stall is the time that
`begin_checkpoint` takes when the checkpoint before has reached the disk; its peer is one copy of as
many bytes between two tensors that were used before. The row of the steps has the same steps
without checkpoints as its peer: it counts what writing in the background takes from them, too.

    python bench/checkpoints.py [--save] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from time import perf_counter
from typing import TYPE_CHECKING, Any

from harness import Row, paired, save

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.checkpoints import Keeping
from gen_worker.trainer.state import TrainingState
from gen_worker.trainer.state.saving import plan_of
from gen_worker.trainer.state.staging import Staging
from gen_worker.trainer.writer import LocalArtifactWriter

try:
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    print("bench/checkpoints.py is skipped: it needs torch")
    sys.exit(0)

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/checkpoints.py"
LAYERS = 12
WIDTH = 1020
"""With the biases, 50 MB of parameters."""
STEPS_S = 1.0
"""Between two saves, at least."""
CTX = StepContext(TrainingJobSpec("bench", 1))


def made() -> TrainingState:
    """Return a state of four times its parameters."""
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimizer = torch.optim.AdamW(model.parameters())
    state = TrainingState(model, optimizer, ema=torch.optim.swa_utils.AveragedModel(model))
    step(state)
    state.accumulated = 0
    return state


def step(state: TrainingState) -> None:
    state.optimizer.zero_grad()
    state.model(torch.ones(8, WIDTH)).sum().backward()
    state.optimizer.step()


class Saves:
    """Begins checkpoints of a state."""

    def __init__(self, state: TrainingState, directory: str) -> None:
        self.state = state
        self.writer = LocalArtifactWriter(
            checkpoints_dir=directory, samples_dir=directory, keeping=Keeping(last=1)
        )
        self._step = 0

    def stall_ms(self) -> float:
        """Return what the run waits for one checkpoint; the one before is on disk."""
        for _ in self.writer.ended_checkpoints(wait=True):
            pass
        self._step += 1
        started = perf_counter()
        self.writer.begin_checkpoint(
            step=self._step, state_payload={}, trainer=None, state=self.state, ctx=CTX
        )
        return (perf_counter() - started) * 1e3


def copy_ms(size_bytes: int) -> Callable[[], float]:
    """Return what measures one copy of so many bytes in memory."""
    source, target = (torch.ones(size_bytes // 4) for _ in range(2))

    def measure() -> float:
        started = perf_counter()
        target.copy_(source)
        return (perf_counter() - started) * 1e3

    return measure


def staging_ms(state: TrainingState) -> Callable[[], float]:
    """Return what measures taking a state apart and copying it."""
    staging = Staging()

    def measure() -> float:
        started = perf_counter()
        plan_of(state).staged(staging)
        return (perf_counter() - started) * 1e3

    return measure


def step_ms(state: TrainingState, before: Callable[[], object]) -> Callable[[], float]:
    """Return what measures the milliseconds of a step, in the time between two saves."""

    def measure() -> float:
        started = perf_counter()
        before()
        count = 0
        while not count or perf_counter() - started < STEPS_S:
            step(state)
            count += 1
        return (perf_counter() - started) * 1e3 / count

    return measure


def rows(directory: str) -> list[Row]:
    state = made()
    size_bytes = plan_of(state).size_bytes
    size = f"{size_bytes / 1e6:.0f} MB"
    saves = Saves(state, directory)
    saves.stall_ms()  # has the memory
    common: dict[str, Any] = {"unit": "ms", "peer_source": SOURCE}
    result = [
        paired(
            f"copying {size} of state (peer: one copy)",
            staging_ms(state),
            copy_ms(size_bytes),
            goal="x <= 1.3",
            passes=lambda a, b, ratio: ratio <= 1.3,
            **common,
        ),
        paired(
            f"stall of a checkpoint of {size} (peer: one copy)",
            saves.stall_ms,
            copy_ms(size_bytes),
            goal="< 50 ms",
            passes=lambda a, b, ratio: a < 50,
            **common,
        ),
        paired(
            f"a step, {STEPS_S:g} s between saves (peer: no saves)",
            step_ms(state, saves.stall_ms),
            step_ms(state, lambda: None),
            **common,
        ),
    ]
    saves.writer.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--directory", default=None, help="on the disk to write to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="checkpoints-") as directory:
        save("checkpoints", rows(directory))


if __name__ == "__main__":
    main()
