"""What may go along with a run does its work, and is as it was once the run is resumed."""

from __future__ import annotations

import random
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, StepControlHints, StepResult, TrainingJobSpec
from gen_worker.trainer.data import MockBatches
from gen_worker.trainer.errors import LossError, StartupContractError, TrainingCanceled
from gen_worker.trainer.job_options import EarlyStop
from gen_worker.trainer.loop import Part, TrainingLoop
from gen_worker.trainer.loop.early_stop import Patience
from gen_worker.trainer.loop.evaluation import Evaluation
from gen_worker.trainer.loop.finite import FiniteLoss, SkippedUpdates
from gen_worker.trainer.loop.heartbeat import Heartbeat
from gen_worker.trainer.loop.performance import Performance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.trainer.loop import Run

NAN = float("nan")
_PATIENCE_S = 60.0


class Trainer:
    """Adds batches up; its loss is the batch."""

    def __init__(self) -> None:
        self.control: dict[int, StepControlHints] = {}
        self.steps = 0

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {"sum": 0.0}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.steps += 1
        state["sum"] += batch
        return StepResult({"loss": batch}, control=self.control.get(self.steps))

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {"sum": state["sum"]}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        state["sum"] = payload["sum"]


class Accumulating(Trainer):
    """Adds up only when its optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[list[float]] = []
        self.skipped = 0

    def configure(self, ctx: StepContext) -> dict[str, Any]:
        return {"sum": 0.0, "waiting": []}

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        state["waiting"].append(batch["loss"])
        return StepResult(batch)

    def optimizer_step(self, state: Any, ctx: StepContext) -> Any:
        self.updates.append(state["waiting"])
        state["sum"] += sum(state["waiting"])
        state["waiting"] = []
        return {"train/grad_norm": 0.5}

    def skip_step(self, state: Any, ctx: StepContext) -> None:
        self.skipped += 1
        state["waiting"] = []


class Evaluated(Trainer):
    """Says of an evaluation batch what it is; draws numbers at it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def eval_begin(self, state: Any, ctx: StepContext) -> None:
        self.calls.append("begin")

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.calls.append(batch)
        random.random()
        value, weight = batch
        return StepResult({"loss": value, "eval/accuracy": 1.0, "weight": weight})

    def eval_end(self, state: Any, ctx: StepContext) -> None:
        self.calls.append("end")


class Around:
    """A reporter and a writer in memory."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []
        self.kept: dict[int, dict[str, Any]] = {}
        self.ends: list[Any] = []
        self.phases: list[tuple[str, int]] = []
        self.beats = threading.Semaphore(0)
        self.logs: list[dict[str, Any]] = []
        self.logged = threading.Event()
        self.is_asked = False
        self.cancel_reason = "canceled"

    def started(self, *, request_id: str) -> None: ...
    def metric(self, *, name: str, value: float, step: int) -> None:
        self.metrics.append((name, value, step))

    def phase(self, *, phase: str, step: int) -> None:
        self.phases.append((phase, step))

    def checkpoint(self, *, path: str, step: int) -> None: ...
    def sample(self, *, path: str, step: int) -> None: ...
    def completed(self, *, step: int, final_checkpoint: str | None) -> None:
        self.ends.append(("completed", step))

    def failed(self, *, step: int, error: str) -> None:
        self.ends.append(("failed", step, error))

    def heartbeat(self, *, step: int) -> None:
        self.beats.release()

    def log(self, **facts: Any) -> None:
        self.logs.append(facts)
        self.logged.set()

    def is_canceled(self) -> bool:
        return self.is_asked

    def write_checkpoint(self, *, step: int, **kept: Any) -> str:
        self.kept[step] = kept
        return f"step-{step}"

    def write_samples(self, *, step: int, state: Any, ctx: StepContext) -> list[str]:
        return []

    def finalize(self, **kept: Any) -> str | None:
        return "final"

    def of(self, name: str) -> list[tuple[float, int]]:
        return [(value, step) for one, value, step in self.metrics if one == name]


@pytest.fixture
def around() -> Around:
    return Around()


def loop_of(
    trainer: Any, around: Around, batches: Sequence[Any], *parts: Part, **more: Any
) -> TrainingLoop:
    given = {name: more.pop(name) for name in list(more) if name in ("hyperparams", "max_steps")}
    every = {
        name: more.pop(name, 0) for name in ("metric_every", "checkpoint_every", "sample_every")
    }
    job = TrainingJobSpec(
        "run", given.get("max_steps", 99), **every, hyperparams=given.get("hyperparams", {})
    )
    return TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=MockBatches(batches),
        reporter=around,
        artifact_writer=around,
        parts=parts,
        **more,
    )


# -- accumulation ----------------------------------------------------------------------------------


def test_the_runtime_accumulates(around: Around) -> None:
    trainer = Accumulating()
    batches = [{"loss": float(one), "tokens": 2} for one in range(1, 8)]
    hyperparams = {"gradient_accumulation_steps": 3}

    loop = loop_of(trainer, around, batches, metric_every=1, hyperparams=hyperparams)

    assert loop.run() == 3
    assert trainer.updates == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0]]
    assert around.of("train/loss") == [(2.0, 1), (5.0, 2), (7.0, 3)]
    assert around.of("tokens") == [(6.0, 1), (6.0, 2), (2.0, 3)]
    assert around.of("train/grad_norm") == [(0.5, 1), (0.5, 2), (0.5, 3)]


def test_micro_batches_count_by_their_weight(around: Around) -> None:
    batches = [{"loss": 1.0, "weight": 3.0}, {"loss": 5.0, "weight": 1.0}]
    loop_of(
        Accumulating(),
        around,
        batches,
        metric_every=1,
        hyperparams={"gradient_accumulation_steps": 2},
    ).run()

    assert around.of("train/loss") == [(2.0, 1)]
    assert around.of("weight") == [(4.0, 1)]


def test_a_step_that_is_accumulated_is_resumed_where_it_began(around: Around) -> None:
    batches = [{"loss": float(one)} for one in range(1, 10)]
    hyperparams = {"gradient_accumulation_steps": 2}
    first = Accumulating()
    more: dict[str, Any] = {"checkpoint_every": 1, "hyperparams": hyperparams}
    loop_of(first, around, batches, max_steps=2, **more).run()
    kept = around.kept[2]

    second = Accumulating()
    loop = loop_of(
        second,
        around,
        batches,
        max_steps=4,
        start_step=2,
        resume_state_payload=kept["state_payload"],
        resume_runtime=kept["runtime"],
        **more,
    )

    assert loop.run() == 4
    assert second.updates == [[5.0, 6.0], [7.0, 8.0]]
    assert loop.state["sum"] == 36.0


@pytest.mark.parametrize("given", [-1, "many", 0.5])
def test_a_count_of_micro_batches_that_is_none(around: Around, given: Any) -> None:
    hyperparams = {"gradient_accumulation_steps": given}
    with pytest.raises(ValueError, match="gradient_accumulation_steps is"):
        loop_of(Accumulating(), around, [{"loss": 1.0}], hyperparams=hyperparams).run()


# -- evaluation and what follows from it -----------------------------------------------------------


def test_an_evaluation(around: Around) -> None:
    trainer = Evaluated()
    data = [(1.0, 3.0), (5.0, 1.0), (100.0, 1.0)]
    evaluation = Evaluation(2, lambda run: MockBatches(data), 2)
    random.seed(5)
    expected = random.Random(5).random()

    loop_of(trainer, around, [1.0] * 4, evaluation, checkpoint_every=2).run()

    assert trainer.calls == ["begin", (1.0, 3.0), (5.0, 1.0), "end"] * 2
    assert around.metrics == [
        ("eval/loss", 2.0, 2),
        ("eval/accuracy", 1.0, 2),
        ("eval/loss", 2.0, 4),
        ("eval/accuracy", 1.0, 4),
    ]
    assert random.random() == expected, "an evaluation changes what is drawn"
    assert around.kept[4]["metrics"]["eval/loss"] == 2.0
    assert around.phases[:6] == [
        ("setup", 0),
        ("configure", 0),
        ("train", 0),
        ("evaluate", 2),
        ("train", 2),
        ("checkpoint", 2),
    ]


def test_a_trainer_that_cannot_evaluate(around: Around) -> None:
    evaluation = Evaluation(2, lambda run: MockBatches([]))
    with pytest.raises(StartupContractError, match="has no eval_step"):
        loop_of(Trainer(), around, [1.0], evaluation).run()
    assert around.ends[0][2].startswith("startup:startup.missing_eval_step")


def test_an_evaluation_that_fails_ends_what_it_began(around: Around) -> None:
    trainer = Evaluated()
    evaluation = Evaluation(1, lambda run: MockBatches([(1.0, 1.0), 7]))

    with pytest.raises(TypeError):
        loop_of(trainer, around, [1.0], evaluation).run()

    assert trainer.calls[-1] == "end"


def test_what_is_wrong_with_the_data_of_an_evaluation_is_told_as_that(around: Around) -> None:
    def batches(run: Run) -> Any:
        yield 1.0, 1.0
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        loop_of(Evaluated(), around, [1.0], Evaluation(1, batches)).run()

    assert around.ends == [("failed", 1, "input:no such file")]


def test_a_run_that_is_canceled_evaluates_no_further(around: Around) -> None:
    trainer = Evaluated()

    def open_batches(run: Run) -> Any:
        yield 1.0, 1.0
        around.is_asked = True
        yield 2.0, 1.0

    with pytest.raises(TrainingCanceled):
        loop_of(trainer, around, [1.0, 2.0], Evaluation(1, open_batches)).run()

    assert trainer.calls == ["begin", (1.0, 1.0), "end"]
    assert not around.of("eval/loss")


@pytest.mark.parametrize(
    ("losses", "wanted", "steps"),
    [
        ([5, 4, 3, 2, 1], EarlyStop(metric="train/loss", patience=2), 5),
        ([5, 4, 4, 4, 1], EarlyStop(metric="train/loss", patience=2), 4),
        ([5, 4.9, 4.8, 4.7, 4.6], EarlyStop(metric="train/loss", patience=2, min_delta=0.5), 3),
        ([1, 2, 1, 3, 1], EarlyStop(metric="train/loss", patience=1, mode="max"), 3),
        ([5, NAN, NAN, 1], EarlyStop(metric="train/loss", patience=2), 3),
        ([5, 6, 7, 8], EarlyStop(metric="other", patience=1), 4),
    ],
)
def test_a_run_that_does_not_get_better_ends(
    around: Around, losses: list[float], wanted: EarlyStop, steps: int
) -> None:
    loop = loop_of(Trainer(), around, losses, Patience(wanted), metric_every=1)

    assert loop.run() == steps
    assert around.ends == [("completed", steps)]


def test_patience_is_resumed(around: Around) -> None:
    losses = [5.0, 6.0, 6.0, 6.0, 6.0]
    wanted = EarlyStop(metric="train/loss", patience=3)
    more: dict[str, Any] = {"metric_every": 1, "checkpoint_every": 1}
    whole = loop_of(Trainer(), around, losses, Patience(wanted), **more)
    assert whole.run() == 4

    for start in (1, 2, 3, 4):
        kept = around.kept[start]
        resumed = loop_of(
            Trainer(),
            Around(),
            losses,
            Patience(wanted),
            start_step=start,
            resume_state_payload=kept["state_payload"],
            resume_runtime=kept["runtime"],
            **more,
        )
        assert resumed.run() == 4, f"resumed at {start}"


def test_a_trainer_may_end_the_run(around: Around) -> None:
    trainer = Trainer()
    trainer.control[2] = StepControlHints(stop=True)
    pulled: list[float] = []

    def batches() -> Any:
        for one in (1.0, 2.0, 3.0):
            pulled.append(one)
            yield one

    job = TrainingJobSpec("run", 3, metric_every=1)
    steps = TrainingLoop(
        job=job,
        ctx=StepContext(job),
        trainer=trainer,
        batches=batches(),
        reporter=around,
        artifact_writer=around,
    ).run()

    assert (steps, pulled) == (2, [1.0, 2.0])
    assert around.ends == [("completed", 2)]
    assert around.of("train/loss") == [(1.0, 1), (2.0, 2)]


# -- losses that are no numbers --------------------------------------------------------------------


class Tensor:
    """Looks like a number of a GPU: reading it waits."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return self.value

    def __radd__(self, other: float) -> float:
        return other + self.value


@pytest.mark.parametrize("loss", [NAN, float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_fails_the_run(around: Around, loss: float) -> None:
    part = FiniteLoss(is_fatal=True)
    with pytest.raises(LossError, match="of step 3 is"):
        loop_of(Trainer(), around, [1.0, 2.0, loss, 4.0], part, checkpoint_every=3).run()

    assert around.kept == {}
    assert around.ends[0][:2] == ("failed", 3)


def test_a_loss_of_a_gpu_is_read_when_something_is_kept(around: Around) -> None:
    losses = [Tensor(1.0), Tensor(NAN), Tensor(3.0), Tensor(4.0), Tensor(5.0)]
    part = FiniteLoss(is_fatal=True)

    with pytest.raises(LossError, match="of step 2 is nan"):
        loop_of(Trainer(), around, losses, part, checkpoint_every=4).run()

    assert around.kept == {}
    assert [one.reads for one in losses] == [1, 1, 0, 0, 0]


def test_metrics_are_read_when_they_are_due(around: Around) -> None:
    losses = [Tensor(float(one)) for one in range(1, 5)]

    loop_of(Trainer(), around, losses, metric_every=2).run()

    assert [one.reads for one in losses] == [0, 1, 0, 1]


def test_a_run_may_only_be_warned(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    loop_of(Trainer(), around, [1.0, NAN, 3.0], FiniteLoss(is_fatal=False)).run()

    assert "train/loss of step 2 is nan, and the run goes on" in caplog.text
    assert around.ends == [("completed", 3)]


def test_an_update_may_be_left_out(around: Around) -> None:
    trainer = Accumulating()
    batches = [{"loss": one} for one in (1.0, 2.0, 3.0, NAN, 5.0, 6.0)]

    loop = loop_of(
        trainer,
        around,
        batches,
        SkippedUpdates(),
        metric_every=1,
        checkpoint_every=3,
        hyperparams={"gradient_accumulation_steps": 2},
    )

    assert loop.run() == 3
    assert trainer.updates == [[1.0, 2.0], [5.0, 6.0]]
    assert (trainer.skipped, loop.state["sum"]) == (1, 14.0)
    assert around.of("trainer/skipped_steps") == [(1.0, 2), (1.0, 3)]
    assert around.kept[3]["runtime"]["parts"] == {"skipped": 1}


def test_only_an_update_that_the_runtime_makes_can_be_left_out(around: Around) -> None:
    with pytest.raises(StartupContractError, match="has no optimizer_step"):
        loop_of(Trainer(), around, [1.0], SkippedUpdates()).run()


# -- figures, signs of life ------------------------------------------------------------------------


def test_how_fast_a_run_is(around: Around) -> None:
    batches = [{"loss": [1.0, 2.0, 3.0], "tokens": 50}] * 4

    class Counting(Trainer):
        def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
            return StepResult({"loss": 1.0, "tokens": batch["tokens"]})

    loop_of(Counting(), around, batches, Performance(), metric_every=2).run()

    figures = {name: value for name, value, step in around.metrics if step == 4}
    spent_s = 2 * figures["perf/step_ms"] / 1000
    assert figures["perf/samples_per_s"] == pytest.approx(6 / spent_s)
    assert figures["perf/tokens_per_s"] == pytest.approx(100 / spent_s)
    assert 0 <= figures["perf/data_wait_ms"] <= figures["perf/step_ms"]
    assert "perf/peak_vram_bytes" not in figures


def test_a_run_that_hangs_says_where(around: Around) -> None:
    """It may be late everywhere on a slow machine; what it waits for here is named in any case."""

    class Hanging(Trainer):
        def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
            while not of_waiting(around):
                assert around.logged.wait(_PATIENCE_S)  # the line that is named
                around.logged.clear()
            return super().train_step(batch, state, ctx)

    loop_of(Hanging(), around, [1.0], Heartbeat(0, 0.05)).run()

    log = of_waiting(around)[0]
    assert log["level"] == "warning"
    assert log["message"].startswith("stalled: nothing has happened for 0 s, the run is at ")


def of_waiting(around: Around) -> list[dict[str, Any]]:
    """Return what was logged while a step waited for it, or was just about to."""
    here = ("threading.py", "test_loop_parts.py")
    return [one for one in around.logs if one["where"].partition(":")[0].endswith(here)]


class Patient(Evaluated):
    """Takes its time wherever a run does other things than steps; notes how long it is quiet."""

    def __init__(self, heartbeat: Heartbeat | None = None) -> None:
        super().__init__()
        self.heartbeat = heartbeat
        self.now_s = 0.0
        self.quiet_s: dict[str, float] = {}
        self.loop: TrainingLoop

    def clock(self) -> float:
        return self.now_s

    def take(self, what: str, seconds: float) -> None:
        """Let time pass, and note for how long nothing has happened then."""
        self.now_s += seconds
        assert self.heartbeat is not None
        quiet_s = self.now_s - self.heartbeat.moved_at(self.loop._facts)
        self.quiet_s[what] = max(quiet_s, self.quiet_s.get(what, 0.0))

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.take("step", 7.0)
        return super().train_step(batch, state, ctx)

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self.take("evaluation", 6.0)
        return super().eval_step(batch, state, ctx)

    def state_dict(self, state: Any) -> dict[str, Any]:
        self.take("checkpoint", 500.0)
        return super().state_dict(state)


def test_what_is_long_without_a_step_is_no_stall(around: Around) -> None:
    """Each batch of an evaluation counts for itself; samples, checkpoints and the end do not."""
    trainer = Patient()
    heartbeat = trainer.heartbeat = Heartbeat(0, 3600, clock=trainer.clock)

    def sample(**_: Any) -> list[str]:
        trainer.take("samples", 500.0)
        return []

    around.write_samples = sample  # type: ignore[method-assign]
    batches = [(1.0, 1.0)] * 50
    trainer.loop = loop_of(
        trainer,
        around,
        [1.0] * 4,
        Evaluation(1, lambda run: MockBatches(batches)),
        heartbeat,
        checkpoint_every=1,
        sample_every=2,
        finishing=lambda path: trainer.take("end", 500.0),
    )
    trainer.loop.run()

    assert trainer.quiet_s == {
        "step": 7.0,
        "evaluation": 6.0,
        "checkpoint": 0.0,
        "samples": 0.0,
        "end": 0.0,
    }


def test_a_long_sample_lets_nobody_say_that_the_run_hangs(around: Around) -> None:
    def sample(**facts: Any) -> list[str]:
        for _ in range(20):  # a second, twice as long as a step may take
            assert around.beats.acquire(timeout=_PATIENCE_S)
        return []

    around.write_samples = sample  # type: ignore[method-assign]

    loop_of(Trainer(), around, [1.0], Heartbeat(0.05, 0.5), sample_every=1).run()

    assert of_waiting(around) == []


def test_a_run_that_lives_says_so(around: Around) -> None:
    class Slow(Trainer):
        def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
            assert around.beats.acquire(timeout=_PATIENCE_S)
            assert around.beats.acquire(timeout=_PATIENCE_S)
            return super().train_step(batch, state, ctx)

    before = threading.active_count()
    loop_of(Slow(), around, [1.0], Heartbeat(0.01, 0)).run()

    assert threading.active_count() == before
    assert around.logs == []


# -- several processes -----------------------------------------------------------------------------


class Other:
    """The second of two processes; what the first one says is decided here."""

    rank, size, local_rank, is_first = 1, 2, 1, False

    def __init__(self) -> None:
        self.first_says: list[bool] = []
        self.asked = 0

    def any(self, flag: bool, /) -> bool:
        self.asked += 1
        return flag or bool(self.first_says and self.first_says.pop(0))

    def barrier(self) -> None: ...
    def broadcast(self, value: Any, /) -> Any:
        return value

    def beside(self) -> Other:
        return self

    def cause_of(self, error: BaseException, /) -> BaseException:
        return error


def test_another_process_reports_nothing(around: Around) -> None:
    more: dict[str, Any] = {"world": Other(), "metric_every": 1, "checkpoint_every": 2}

    assert loop_of(Trainer(), around, [1.0, 2.0], **more).run() == 2

    assert (around.metrics, around.ends, around.phases) == ([], [], [])
    assert list(around.kept) == [2], "each process has a part in a checkpoint"


def test_a_process_ends_with_the_others(around: Around) -> None:
    world = Other()
    world.first_says = [False, True, False]
    loop = loop_of(Trainer(), around, [1.0, 2.0, 3.0], world=world)

    assert loop.run() == 1


def test_a_process_is_canceled_with_the_others(around: Around) -> None:
    world = Other()
    world.first_says = [False, True, True]
    loop = loop_of(Trainer(), around, [1.0, 2.0, 3.0], world=world)

    with pytest.raises(TrainingCanceled):
        loop.run()

    assert list(around.kept) == [1]


def test_what_is_off_is_not_called(around: Around) -> None:
    """A part without a method of its own costs a step nothing."""
    called: list[str] = []

    def trace(frame: Any, event: str, arg: object) -> None:
        if event == "call" and "/trainer/loop/" in frame.f_code.co_filename:
            called.append(frame.f_code.co_name)

    loop = loop_of(Trainer(), around, [1.0] * 3, Patience(EarlyStop(metric="train/loss")))
    sys.setprofile(trace)
    try:
        loop.run()
    finally:
        sys.setprofile(None)

    assert called.count("_step") == 4
    assert not {"before_step", "after_step", "reported", "report"} & set(called)
