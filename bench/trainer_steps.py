"""What the training runtime adds to a step: the whole of it against a bare loop, without work.

    python bench/trainer_steps.py [--save]

Each block runs 2,000 steps with the job's default cadences (metrics every 10 steps, written to a
file as every run writes them). The figure is the time from the first to the last step, by step.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from typing import Any

from harness import Row, paired, save

from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.config import asked_to_stop, places_of, resolve
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.runtime import Host, TrainingRun
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.trainer.steps import StepContext, StepResult

STEPS = 2_000
LIMIT_US = 150.0
_BATCHES = [{"x": [1.0, 2.0]}] * STEPS


class NoWork:
    """A trainer whose steps do nothing, and note when they are called."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.calls.append(time.perf_counter())
        return StepResult({"loss": 1.0, "lr": 0.1})

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None: ...


def per_step_us(trainer: NoWork) -> float:
    return 1e6 * (trainer.calls[-1] - trainer.calls[0]) / (len(trainer.calls) - 1)


def of_runtime(**fields: Any) -> float:
    """Run a whole job; return microseconds by step."""
    trainer = NoWork()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainerSettings(artifacts_dir=folder)
        job = {
            "request_id": "bench",
            "trainer": "trainer_steps:NoWork",
            "max_steps": STEPS,
            "mock_batches": _BATCHES,
            **fields,
        }
        config = resolve(settings, parse_job(job), places_of(settings))
        policy = RuntimeCancelPolicy(
            config.cancel_file or None, config.max_runtime_seconds, is_asked=asked_to_stop()
        )
        host = Host(policy, load_trainer=lambda _: trainer, has_process=True)
        TrainingRun(config, host=host).run()
        events = os.path.join(folder, "metrics", "events.jsonl")
        with open(events, encoding="utf-8") as file:
            last = json.loads(file.readlines()[-1])
        assert (last["event"], last["step"]) == ("completed", STEPS)
    return per_step_us(trainer)


def of_bare_loop() -> float:
    """Call the same hooks in a loop; return microseconds by step."""
    trainer, ctx = NoWork(), StepContext(parse_job({"request_id": "bench"}).spec)
    state = trainer.configure(ctx)
    for raw in _BATCHES:
        trainer.train_step(trainer.prepare_batch(raw, state, ctx), state, ctx)
    return per_step_us(trainer)


def added(name: str, *, limit_us: float = LIMIT_US, **fields: Any) -> Row:
    """Measure both in turn and return what the runtime adds.

    Args:
        name: What is measured.
        limit_us: What the runtime may add.
        fields: Keys of the job spec.
    """
    return paired(
        name,
        lambda: of_runtime(**fields),
        of_bare_loop,
        unit="us",
        peer_source="bench/trainer_steps.py",
        goal=f"at most {limit_us:g} us more",
        passes=lambda ours, peer, _: ours - peer <= limit_us,
    )


def main() -> None:
    logging.getLogger("gen_worker").setLevel(logging.WARNING)
    rows = [
        added("step of no work"),
        added("step of no work, metrics each step", limit_us=2 * LIMIT_US, metric_every=1),
        added("step of no work, time limit and cancel file", **_WATCHED),
    ]
    save("trainer_steps", rows)


_WATCHED: dict[str, Any] = {
    "max_runtime_seconds": 3600,
    "cancel_file_path": "/nowhere/stop",
    "stall_seconds": 60,
}

if __name__ == "__main__":
    main()
