"""A small training that draws from everything a run may draw from; told where by its arguments.

    python resumed_run.py DIRECTORY STEPS LOG

Each line of LOG is what one step was; the last line of a run that ends has hashes of its state.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np  # type: ignore[import-not-found,unused-ignore]
import torch  # type: ignore[import-not-found,unused-ignore]
from blake3 import blake3

from gen_worker.trainer import StepContext, StepResult, TrainingJobSpec
from gen_worker.trainer.checkpoints import Keeping
from gen_worker.trainer.data import ArrowFeedConfig, ParquetArrowBatchFeeder
from gen_worker.trainer.loop import TrainingLoop
from gen_worker.trainer.state import TrainingState
from gen_worker.trainer.state.rng import seed_everything
from gen_worker.trainer.state.tree import flatten
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from collections.abc import Callable

_ACCUMULATE = 3
_KEEP_EVERY = 4
_ROWS = (7, 40, 13)


def hash_of(value: Any) -> str:
    """Return a hash of every bit of a value."""
    tensors, skeleton = flatten(value, "x")
    digest = blake3(json.dumps(skeleton).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Trainer:
    """Learns from noisy rows, and takes a step of its optimizer every third batch."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def setup(self, ctx: StepContext) -> None:
        seed_everything(7)

    def configure(self, ctx: StepContext) -> TrainingState:
        averaging: Any = torch.optim.swa_utils.get_ema_multi_avg_fn
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(16, 1),
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return TrainingState(
            model,
            optimizer,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5),
            ema=torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=averaging(0.9)),
            extra={"augmentation": torch.Generator().manual_seed(3)},
        )

    def prepare_batch(self, raw: Any, state: TrainingState, ctx: StepContext) -> Any:
        columns = raw.to_pydict()
        features = torch.tensor(columns["features"], dtype=torch.float32)
        features += 0.1 * torch.randn(features.shape, generator=state.extra["augmentation"])
        features += float(np.random.normal()) + random.gauss(0, 0.1)
        return columns["id"], features

    def train_step(self, batch: Any, state: TrainingState, ctx: StepContext) -> StepResult:
        ids, features = batch
        loss = (state.model(features) - features.sum(1, keepdim=True)).square().mean()
        (loss / _ACCUMULATE).backward()
        state.accumulated = ((state.accumulated or 0) + 1) % _ACCUMULATE
        rate = state.optimizer.param_groups[0]["lr"]
        if state.accumulated == 0:
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.scheduler.step()
            state.ema.update_parameters(state.model)
        print(json.dumps([ids, loss.item().hex(), rate.hex()]), file=self._log, flush=True)
        return StepResult({"loss": loss.item(), "lr": rate})

    def state_dict(self, state: TrainingState) -> dict[str, Any]:
        torch.rand(1)  # what a checkpoint draws makes no difference
        return {}

    def load_state_dict(self, state: TrainingState, payload: Any, ctx: StepContext) -> None:
        torch.rand(1)


class Reporter:
    """Says on the standard output which checkpoints are on disk."""

    def checkpoint(self, *, path: str, step: int) -> None:
        print(step, flush=True)

    def is_canceled(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda **_: None


def write_data(directory: Path) -> list[str]:
    """Write files of different row groups, unless they are there."""
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

    paths = [str(directory / f"{index}.parquet") for index in range(len(_ROWS))]
    for index, path in enumerate(paths):
        if not Path(path).exists():
            ids = [index * 1000 + row for row in range(30 + 7 * index)]
            rows = [[(one * k % 17) / 17 for k in range(1, 5)] for one in ids]
            pq.write_table(
                pa.table({"id": ids, "features": rows}), path, row_group_size=_ROWS[index]
            )
    return paths


def main(
    directory: Path,
    steps: int,
    log_path: Path,
    make: Callable[[Any], Any] = Trainer,
    **hyperparams: Any,
) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = ParquetArrowBatchFeeder(
        write_data(directory),
        ArrowFeedConfig(
            batch_size=4,
            readahead=3,
            epochs=0,
            shuffle=True,
            shuffle_buffer_rows=16,
            drop_last=True,
        ),
    )
    writer = LocalArtifactWriter(
        checkpoints_dir=directory / "checkpoints",
        samples_dir=directory / "samples",
        keeping=Keeping(last=2),
        small_bytes=0,
    )
    found = writer.store.newest()
    start = found.checkpoint.step if found is not None else 0
    job = TrainingJobSpec(
        "run", steps, metric_every=0, checkpoint_every=_KEEP_EVERY, hyperparams=hyperparams
    )
    with log_path.open("w") as log:
        print(start, file=log, flush=True)
        loop = TrainingLoop(
            job=job,
            ctx=StepContext(job, device="cpu"),
            trainer=make(log),
            batches=data,
            reporter=Reporter(),
            artifact_writer=writer,
            start_step=start,
            resume_state_payload=None if found is None else found.checkpoint.state,
            resume_checkpoint_path=None if found is None else found.directory,
            resume_runtime=None if found is None else found.checkpoint.runtime,
        )
        loop.run()
        state = loop.state
        parts = ("model", "optimizer", "scheduler", "ema")
        hashes = {name: hash_of(getattr(state, name).state_dict()) for name in parts}
        hashes["progress"] = repr(state.extra.get("gradient"))
        hashes["gradients"] = hash_of([one.grad for one in state.model.parameters()])
        hashes["drawn"] = repr((random.random(), np.random.rand(), torch.rand(1).item()))
        print(json.dumps(hashes), file=log, flush=True)
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
