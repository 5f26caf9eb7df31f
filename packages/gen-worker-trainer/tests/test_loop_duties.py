"""What is due at the step at which a run is told to stop: put off, kept, and done once resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, StepResult, TrainingCanceled, TrainingJobSpec
from gen_worker.trainer.checkpoints import CheckpointStore, Keeping
from gen_worker.trainer.data import MockBatches
from gen_worker.trainer.earlier import set_aside
from gen_worker.trainer.job_file import SampleRequest, parse_job
from gen_worker.trainer.job_options import EarlyStop
from gen_worker.trainer.loop import TrainingLoop
from gen_worker.trainer.loop.early_stop import Patience
from gen_worker.trainer.loop.evaluation import Evaluation
from gen_worker.trainer.resume import resume_point
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.job_file import JobFile


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing is kept any more."""


class Trainer:
    """Adds up; its evaluation is worse each time, and may tell the run to stop."""

    def __init__(self, told: list[Any], *, stops_at: str = "", dies_at: str = "") -> None:
        self.told = told
        self.stops_at = stops_at
        self.dies_at = dies_at
        self.is_asked = False
        self.cancel_reason = "canceled"

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {"sum": 0, "generate_sample": self.sample}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: int, state: Any, ctx: StepContext) -> StepResult:
        state["sum"] += batch
        self._reached(f"step {state['sum']}")
        return StepResult({"loss": 1.0})

    def eval_step(self, batch: int, state: Any, ctx: StepContext) -> StepResult:
        self._reached(f"eval {state['sum']}/{batch}")
        return StepResult({"loss": float(state["sum"])})

    def sample(self, *, prompt: str) -> dict[str, str]:
        self._reached(f"sample {prompt}")
        return {"of": prompt}

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {"sum": state["sum"]}

    def load_state_dict(self, state: Any, payload: dict[str, Any], ctx: StepContext) -> None:
        state["sum"] = payload["sum"]

    def _reached(self, place: str) -> None:
        if place == self.dies_at:
            raise Killed
        self.is_asked = self.is_asked or place == self.stops_at

    # As a reporter.

    def is_canceled(self) -> bool:
        return self.is_asked

    def started(self, *, request_id: str) -> None: ...
    def checkpoint(self, *, path: str, step: int) -> None: ...
    def metric(self, *, name: str, value: float, step: int) -> None:
        if name.startswith("eval/"):
            self.told.append((name, value, step))

    def sample_made(self, path: str, step: int) -> None:
        self.told.append((path.rpartition("/")[2], step))

    def completed(self, *, step: int, final_checkpoint: str | None) -> None:
        self.told.append(("completed", step))

    def failed(self, *, step: int, error: str) -> None: ...


class Reporter:
    """Hands on to a trainer what it is told."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def sample(self, *, path: str, step: int) -> None:
        self._trainer.sample_made(path, step)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LocalArtifactWriter]:
    prompts = [SampleRequest(name=name, mode="t2i", prompt=name) for name in ("a", "b")]
    opened = LocalArtifactWriter(
        checkpoints_dir=tmp_path / "checkpoints",
        samples_dir=tmp_path / "samples",
        sample_requests=prompts,
    )
    yield opened
    opened.close()


def run(
    writer: LocalArtifactWriter,
    trainer: Trainer,
    *,
    checkpoint_every: int = 2,
    steps: int = 6,
    resumed: bool = False,
) -> int:
    job = TrainingJobSpec(
        "run", steps, metric_every=0, checkpoint_every=checkpoint_every, sample_every=2
    )
    wanted = parse_job({"request_id": "run", "resume_from_latest": resumed})
    point = resume_point(wanted, writer.store)
    kept: dict[str, Any] = {}
    if point is not None:
        kept["start_step"] = point.step
        kept["resume_state_payload"] = point.state
        kept["resume_runtime"] = point.runtime
    return TrainingLoop(
        job=job,
        ctx=StepContext(job, is_canceled=trainer.is_canceled),
        trainer=trainer,
        batches=MockBatches([1] * 9),
        reporter=Reporter(trainer),
        artifact_writer=writer,
        parts=[
            Evaluation(2, lambda run: MockBatches([1, 2])),
            Patience(EarlyStop(metric="eval/loss", patience=2)),
        ],
        **kept,
    ).run()


def told_to(request_id: str, path: str) -> JobFile:
    """Return a job that is to begin at a checkpoint."""
    return parse_job({"request_id": request_id, "resume_checkpoint_path": path})


def whole(step: int) -> list[tuple[Any, ...]]:
    """Return what is told of a step's duties when nothing interrupts them."""
    samples = [(f"step-{step:08d}-{number:02d}.json", step) for number in range(2)]
    return [("eval/loss", float(step), step), *samples]


UNINTERRUPTED = [*whole(2), *whole(4), *whole(6), ("completed", 6)]


@pytest.mark.parametrize("checkpoint_every", [0, 2])
@pytest.mark.parametrize(
    "stops_at", ["step 4", "eval 4/1", "eval 4/2", "eval 6/1", "step 6", "step 3"]
)
def test_what_was_due_is_done_once_the_run_goes_on(
    writer: LocalArtifactWriter, stops_at: str, checkpoint_every: int
) -> None:
    told: list[Any] = []
    stopped = Trainer(told, stops_at=stops_at)
    with pytest.raises(TrainingCanceled, match="canceled"):
        run(writer, stopped, checkpoint_every=checkpoint_every)

    run(writer, Trainer(told), checkpoint_every=checkpoint_every, resumed=True)

    assert told == UNINTERRUPTED


@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_samples_are_made_once_the_run_goes_on(
    writer: LocalArtifactWriter, tmp_path: Path, checkpoint_every: int
) -> None:
    """Although the checkpoint of their step, if there was one, came before them."""
    told: list[Any] = []
    trainer = Trainer(told, stops_at="sample a")
    with pytest.raises(TrainingCanceled):
        run(writer, trainer, checkpoint_every=checkpoint_every)
    assert told == whole(2)[:1]
    newest = writer.store.newest()
    assert newest is not None
    assert (newest.checkpoint.step, newest.checkpoint.runtime["owed"]) == (2, ["samples"])

    run(writer, Trainer(told), resumed=True)

    assert told == UNINTERRUPTED
    final = writer.store.final()
    assert final is not None
    assert "owed" not in final.checkpoint.runtime
    made = json.loads((tmp_path / "samples" / "step-00000002-01.json").read_text())
    assert made["of"] == "b"


def test_it_may_be_put_off_again(writer: LocalArtifactWriter) -> None:
    told: list[Any] = []
    for stops_at in ("eval 2/1", "eval 2/2", "sample a"):
        with pytest.raises(TrainingCanceled):
            run(writer, Trainer(told, stops_at=stops_at), resumed=True)

    run(writer, Trainer(told), resumed=True)

    assert told == UNINTERRUPTED


def test_a_run_without_that_duty_goes_on(writer: LocalArtifactWriter) -> None:
    told: list[Any] = []
    with pytest.raises(TrainingCanceled):
        run(writer, Trainer(told, stops_at="eval 2/1"))
    found = writer.store.newest()
    assert found is not None
    job = TrainingJobSpec("run", 3, metric_every=0)
    trainer = Trainer(told)
    loop = TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=MockBatches([1] * 9),
        reporter=Reporter(trainer),
        artifact_writer=writer,
        start_step=2,
        resume_state_payload=found.checkpoint.state,
        resume_runtime=found.checkpoint.runtime,
    )

    assert loop.run() == 3
    assert told == [("completed", 3)]


@pytest.mark.parametrize("dies_at", ["sample a", "sample b"])
def test_samples_that_a_kill_has_kept_from_being_made_are_made_once(
    writer: LocalArtifactWriter, tmp_path: Path, dies_at: str
) -> None:
    """Its step has a checkpoint already, so that the run never comes to that step again."""
    told: list[Any] = []
    for _ in range(2):  # also when it is killed there once more
        with pytest.raises(Killed):
            run(writer, Trainer(told, dies_at=dies_at), resumed=True)
        newest = writer.store.newest()
        assert newest is not None
        assert newest.checkpoint.step == 2

    run(writer, Trainer(told), resumed=True)

    assert told == UNINTERRUPTED
    assert sorted(one.name for one in (tmp_path / "samples").iterdir()) == [
        f"step-{step:08d}-{number:02d}.json" for step in (2, 4, 6) for number in range(2)
    ]


@pytest.mark.parametrize("dies_at", ["step 3", "step 5"])
def test_samples_that_were_made_before_a_kill_are_not_made_again(
    writer: LocalArtifactWriter, dies_at: str
) -> None:
    told: list[Any] = []
    for _ in range(2):
        with pytest.raises(Killed):
            run(writer, Trainer(told, dies_at=dies_at), resumed=True)

    run(writer, Trainer(told), resumed=True)

    assert told == UNINTERRUPTED


def test_samples_that_were_made_up_are_not_made_again(writer: LocalArtifactWriter) -> None:
    """Although the checkpoint of their step still says that they were not made."""
    told: list[Any] = []
    for place in ("sample b", "step 3", "step 3"):
        with pytest.raises(Killed):
            run(writer, Trainer(told, dies_at=place), resumed=True)

    run(writer, Trainer(told), resumed=True)

    assert told == UNINTERRUPTED


def test_a_checkpoint_is_not_kept_twice_for_samples_that_are_put_off(
    writer: LocalArtifactWriter,
) -> None:
    told: list[Any] = []
    with pytest.raises(TrainingCanceled):
        run(writer, Trainer(told, stops_at="sample a"))
    first = writer.store.checkpoints()[-1].created_at
    for stops_at in ("sample a", "sample a"):
        with pytest.raises(TrainingCanceled):
            run(writer, Trainer(told, stops_at=stops_at), resumed=True)

    assert writer.store.checkpoints()[-1].created_at == first


def test_a_checkpoint_that_takes_the_place_of_another_has_its_samples_before_it(
    writer: LocalArtifactWriter,
) -> None:
    """What was made of the step in an earlier run is nothing to this one."""
    told: list[Any] = []
    for dies_at in ("step 3", "sample a"):
        with pytest.raises(Killed):
            run(writer, Trainer([], dies_at=dies_at))

    run(writer, Trainer(told), resumed=True)

    assert told == [*whole(2)[1:], *UNINTERRUPTED[3:]]


def test_what_another_run_has_not_made_is_not_made_up(writer: LocalArtifactWriter) -> None:
    with pytest.raises(Killed):
        run(writer, Trainer([], dies_at="sample a"))
    path = f"{writer.store.root}/step-00000002.json"

    own = resume_point(told_to("run", path), writer.store)
    other = resume_point(told_to("other", path), writer.store)

    assert own is not None
    assert other is not None
    assert own.runtime["owed"] == ["samples"]
    assert "owed" not in other.runtime


def test_marks_go_where_their_checkpoints_go(writer: LocalArtifactWriter) -> None:
    run(writer, Trainer([]))
    root = Path(writer.store.root)
    marks = [f"step-{step:08d}.done" for step in (2, 4, 6)]
    assert sorted(one.name for one in root.glob("*.done")) == marks

    folder = set_aside(
        writer.store,
        resume_point(told_to("run", f"{root}/step-00000004.json"), writer.store),
    )

    assert folder is not None
    assert sorted(one.name for one in root.glob("*.done")) == marks[:2]
    assert [one.name for one in Path(folder).glob("*.done")] == marks[2:]
    with CheckpointStore(f"{root}/other", Keeping(last=1)) as store:
        for step in (1, 2):
            with store.building(step) as draft:
                draft.commit("r", {})
            store.note_done(step, ["samples"])
        store.retire()
        assert sorted(os.listdir(store.root))[1:] == ["step-00000002.done", "step-00000002.json"]
