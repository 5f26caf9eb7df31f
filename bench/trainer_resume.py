"""How long a run that goes on takes to its first step, against loading the same weights alone.

Ours is a whole run: the job is read, the newest checkpoint is found and every byte of it verified,
the state is put back, the data are sought, up to the first step. The peer builds the same model and
optimizer and loads the same files with `safetensors.torch` and `load_state_dict`. Files are in the
page cache, and torch is loaded, for both.

    python bench/trainer_resume.py [--save] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import tempfile
from functools import partial
from time import perf_counter
from typing import Any

from harness import Row, paired, save

from gen_worker.trainer import StepContext, StepResult, TrainingState
from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.config import places_of, resolve
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.runtime import Host, TrainingRun
from gen_worker.trainer.settings import TrainerSettings

try:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from safetensors.torch import load_file
except ImportError:
    print("bench/trainer_resume.py is skipped: it needs torch")
    sys.exit(0)

SOURCE = "bench/trainer_resume.py"
LAYERS = 12
WIDTH = 1020
"""With the biases, 50 MB of parameters; with AdamW and averages, 200 MB of state."""
LIMIT = 1.2


class _Begun(Exception):
    """The first step is there."""


def built() -> tuple[Any, Any, Any]:
    """Return a model, its optimizer and its averages."""
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    model.to_empty(device="cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    return model, optimizer, torch.optim.swa_utils.AveragedModel(model)


class Tuner:
    """Trains, or ends with the first step."""

    def __init__(self, *, is_measured: bool) -> None:
        self._is_measured = is_measured

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> TrainingState:
        model, optimizer, ema = built()
        return TrainingState(model, optimizer, ema=ema)

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        if self._is_measured:
            raise _Begun
        state.model(torch.ones(8, WIDTH)).sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()  # the peer knows of no gradients
        return StepResult({"step": 1.0})

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None: ...


def run(folder: str, *, is_measured: bool) -> float:
    """Run a job; return milliseconds to the first step, or to the end of what is not measured."""
    started = perf_counter()
    job = parse_job(
        {
            "request_id": "bench",
            "trainer": "bench:Tuner",
            "max_steps": 9 if is_measured else 1,
            "checkpoint_every": 1,
            "mock_batches": [0] * 9,
            "resume_from_latest": is_measured,
        }
    )
    settings = TrainerSettings(artifacts_dir=folder)
    config = resolve(settings, job, places_of(settings))
    host = Host(
        RuntimeCancelPolicy(),
        open_uploader=lambda _: None,
        load_trainer=lambda _: Tuner(is_measured=is_measured),
    )
    try:
        TrainingRun(config, host=host).run()
    except _Begun:
        pass
    return (perf_counter() - started) * 1e3


def load(folder: str) -> float:
    """Build and load the same without a runtime; return milliseconds."""
    started = perf_counter()
    model, optimizer, ema = built()
    pattern = os.path.join(folder, "checkpoints", "final", "**", "*.safetensors")
    found: dict[str, Any] = {}
    for path in sorted(glob.glob(pattern, recursive=True)):
        found[os.path.basename(path)] = load_file(path)
    parameters = list(model.parameters())
    tensors = [tensor for kept in found.values() for tensor in kept.values()]
    shapes = {parameter.shape for parameter in parameters}
    whole = [tensor for tensor in tensors if tensor.shape in shapes]
    targets: list[Any] = [*parameters, *ema.module.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            state = {"exp_avg": torch.empty_like(parameter), "step": torch.tensor(1.0)}
            state["exp_avg_sq"] = torch.empty_like(parameter)
            optimizer.state[parameter] = state
            targets += [state["exp_avg"], state["exp_avg_sq"]]
        by_shape = {shape: [one for one in whole if one.shape == shape] for shape in shapes}
        for target in targets:
            target.copy_(by_shape[target.shape].pop())
    return (perf_counter() - started) * 1e3


def rows(folder: str) -> list[Row]:
    run(folder, is_measured=False)
    return [
        paired(
            "resume to the first step, 200 MB of state (peer: loading)",
            partial(run, folder, is_measured=True),
            partial(load, folder),
            unit="ms",
            peer_source=SOURCE,
            goal=f"x <= {LIMIT}",
            passes=lambda a, b, ratio: ratio <= LIMIT,
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--directory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        save("trainer_resume", rows(folder))


if __name__ == "__main__":
    main()
