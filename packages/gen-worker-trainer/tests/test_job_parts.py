"""What a job spec asks for besides steps happens in a whole run, and goes on when it is resumed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.trainer import StepContext, StepResult
from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.data.shares import Spare
from gen_worker.trainer.errors import LossError, StartupContractError
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.job_parts import eval_batches_of
from gen_worker.trainer.runtime import Host, TrainingRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.trainer.config import RunConfig

LOSSES = [9.0, 3.0, 5.0, 2.0, 6.0, 7.0, 8.0, 8.0, 8.0]
"""By step, of evaluations."""


class Rates(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    rate: float = 0.5
    layers: int


class Tuner:
    """Its evaluations are as bad as `LOSSES` says."""

    def setup(self, ctx: StepContext) -> None:
        self.hyperparams = ctx.hyperparams

    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {"steps": 0}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        state["steps"] += 1
        loss = batch if isinstance(batch, float) else 1.0
        return StepResult({"loss": loss, "tokens": 3})

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        return StepResult({"loss": LOSSES[state["steps"] - 1]})

    def state_dict(self, state: Any) -> dict[str, Any]:
        return dict(state)

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        state.update(payload)


class Typed(Tuner):
    hyperparams_type = Rates


class Job:
    """Runs of one job in one directory."""

    def __init__(self, make_config: Callable[..., RunConfig], folder: Path) -> None:
        self._make = make_config
        self.out = folder / "training"

    def run(self, trainer: Any = None, **fields: Any) -> int:
        job = {
            "max_steps": 9,
            "metric_every": 1,
            "mock_batches": list(range(20)),
            "resume_from_latest": True,
            **fields,
        }
        host = Host(RuntimeCancelPolicy(), load_trainer=lambda _: trainer or Tuner())
        return TrainingRun(self._make(**job), host=host).run()

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if not names or one["event"] in names]

    def metric(self, name: str) -> list[tuple[int, float]]:
        found = (one for one in self.events("metric") if one["name"] == name)
        return [(one["step"], one["value"]) for one in found]

    def kept(self) -> list[int]:
        names = (self.out / "checkpoints").glob("step-*.json")
        return sorted(int(path.stem.removeprefix("step-")) for path in names)


@pytest.fixture
def job(make_config: Callable[..., RunConfig], tmp_path: Path) -> Job:
    return Job(make_config, tmp_path)


def test_the_best_checkpoints_stay(job: Job) -> None:
    job.run(
        eval_every=1,
        checkpoint_every=1,
        keep_last_checkpoints=2,
        keep_best_checkpoints={"count": 2},
    )

    assert job.kept() == [2, 4, 8, 9]
    assert job.metric("eval/loss") == list(enumerate(LOSSES, 1))


def test_the_newest_checkpoint_stays_beside_the_best(job: Job) -> None:
    best = {"count": 1, "mode": "max"}
    job.run(eval_every=1, checkpoint_every=1, keep_best_checkpoints=best)

    assert job.kept() == [1, 9]


def test_a_run_that_gets_no_better_ends_where_it_would_have(job: Job) -> None:
    fields: dict[str, Any] = {
        "eval_every": 1,
        "checkpoint_every": 1,
        "early_stop": {"patience": 3},
    }
    assert job.run(max_steps=5, **fields) == 0
    (job.out / "checkpoints" / "final.json").unlink()

    assert job.run(**fields) == 0

    assert job.events("completed")[-1]["step"] == 7
    steps = [step for step, _ in job.metric("eval/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]

    assert job.run(**fields) == 0, "it has ended, and does no further step"
    assert [step for step, _ in job.metric("eval/loss")] == steps


def test_an_evaluation_has_data_of_its_own(job: Job, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Looking(Tuner):
        def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
            seen.append(batch)
            return StepResult({"loss": 1.0})

    job.run(Looking(), eval_every=4, eval_max_batches=3)

    assert seen == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("loads", [False, True])
def test_each_process_has_its_share_of_an_evaluation(loads: bool) -> None:
    """A `load_batch` is asked for that share alone."""
    loaded: list[Any] = []

    class Loading(Tuner):
        def load_batch(self, raw: Any, epoch: int, ctx: StepContext) -> Any:
            loaded.append(raw)
            return raw

    wanted = parse_job(
        {"request_id": "r", "mock_batches": list("abcdefg"), "eval_every": 1, "eval_max_batches": 5}
    )
    shares = []
    for rank in range(3):
        world = SimpleNamespace(rank=rank, size=3)
        trainer = Loading() if loads else Tuner()
        run: Any = SimpleNamespace(trainer=trainer, ctx=None, world=world)
        shares.append(list(eval_batches_of(wanted, run).iter_batches()))

    assert shares == [["a", "d"], ["b", "e"], ["c", Spare("d")]]
    assert sorted(loaded) == (list("abcdde") if loads else [])


def test_figures_are_reported(job: Job) -> None:
    job.run(metric_every=3)

    for name in ("step_ms", "data_wait_ms", "samples_per_s", "tokens_per_s"):
        assert [step for step, _ in job.metric(f"perf/{name}")] == [3, 6, 9]


def test_phases_are_told_to_those_who_know_them(job: Job) -> None:
    job.run(max_steps=2, checkpoint_every=1, eval_every=2, events_version=2)
    phases = [(one["phase"], one["step"]) for one in job.events("phase")]
    assert phases == [
        ("setup", 0),
        ("configure", 0),
        ("train", 0),
        ("checkpoint", 1),
        ("train", 1),
        ("evaluate", 2),
        ("train", 2),
        ("checkpoint", 2),
        ("train", 2),
        ("checkpoint", 2),
    ]

    job.run(max_steps=3, events_version=2)
    assert ("restore", 2) in [(one["phase"], one["step"]) for one in job.events("phase")]
    before = len(job.events("phase"))
    job.run(max_steps=4)
    assert len(job.events("phase")) == before


@pytest.mark.parametrize("policy", ["fail", "warn"])
def test_a_loss_that_is_no_number(job: Job, policy: str) -> None:
    fields: dict[str, Any] = {"mock_batches": [1.0, "nan", 3.0], "nan_policy": policy}

    class Reading(Tuner):
        def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
            return float(raw_batch)

    if policy == "warn":
        assert job.run(Reading(), **fields) == 0
        (found,) = [one for one in job.events("metric") if one.get("nonfinite")]
        assert (found["value"], found["nonfinite"], found["step"]) == (None, "nan", 2)
        return
    with pytest.raises(LossError):
        job.run(Reading(), checkpoint_every=1, **fields)
    assert job.kept() == [1]
    (failed,) = job.events("failed")
    assert failed["step"] == 2
    assert failed["error"].startswith("train/loss of step 2 is nan")


def test_hyperparams_are_what_the_trainer_asks_for(job: Job) -> None:
    trainer = Typed()
    job.run(trainer, hyperparams={"layers": "3"})
    assert trainer.hyperparams == Rates(layers=3)


def test_every_hyperparam_that_is_wrong_is_named(job: Job) -> None:
    with pytest.raises(StartupContractError):
        job.run(Typed(), hyperparams={"rate": "much", "layer": 3})

    (failed,) = job.events("failed")
    assert failed["error"].startswith("startup:startup.invalid_hyperparams")
    for text in ("rate: Expected `float`", "layers is missing", "layer is unknown, known are rate"):
        assert text in failed["error"]


def test_a_type_that_is_none(job: Job) -> None:
    class Wrong(Tuner):
        hyperparams_type = dict

    with pytest.raises(TypeError, match=r"subclass of msgspec\.Struct"):
        job.run(Wrong())


def test_a_tracker_that_cannot_be_made_fails_the_job(job: Job) -> None:
    with pytest.raises(StartupContractError, match="names no tracker"):
        job.run(trackers=["wandb"])
    assert job.events("failed")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"early_stop": {"metric": "eval/loss"}}, "early_stop looks at 'eval/loss'"),
        ({"keep_best_checkpoints": {"count": 2}}, "keep_best_checkpoints looks at"),
        ({"early_stop": {"patience": 0}}, "patience must be at least 1"),
        ({"keep_best_checkpoints": {"metric": "x", "count": 0}}, "count must be at least 1"),
        ({"early_stop": {"metric": "x", "patient": 3}}, "patient"),
        ({"nan_policy": "hope"}, "nan_policy"),
        ({"profile": {"steps": 0}}, "start_step and steps must be at least 1"),
        ({"eval_every": -1, "stall_seconds": -2}, "eval_every, stall_seconds must not be negative"),
    ],
)
def test_what_no_run_could_do(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(StartupContractError) as raised:
        parse_job({"request_id": "run-7", **fields})
    assert text in str(raised.value)
