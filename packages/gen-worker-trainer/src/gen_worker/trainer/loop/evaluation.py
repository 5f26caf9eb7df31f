"""Looks now and then how good the model is on data that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.calling import accepted
from gen_worker.trainer.data.shares import Spare
from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.loop.duties import Duty
from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.loop.stepping import source_of
from gen_worker.trainer.metrics import WEIGHT, Sums, numbers, require_metrics
from gen_worker.trainer.state.rng import untouched_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.trainer.loop.running import Run

__all__ = ["Evaluation", "evaluate"]

_PREFIX = "eval/"


class Evaluation(Part):
    """Evaluates on all processes, each on its share of the data; all know the same afterwards."""

    def __init__(self, every: int, open_batches: Callable[[Run], Any], most: int = 0) -> None:
        """Prepare.

        Args:
            every: Steps between two evaluations.
            open_batches: Returns this process's data, from their beginning.
            most: Batches of an evaluation in each process; 0 takes all.
        """
        self._every = every
        self._open = open_batches
        self._most = most

    def begin(self, run: Run) -> None:
        """Make sure that the trainer can be asked.

        Raises:
            StartupContractError: It has no `eval_step`.
        """
        if not callable(getattr(run.trainer, "eval_step", None)):
            raise StartupContractError(
                "startup.missing_eval_step",
                f"eval_every is {self._every}, and {type(run.trainer).__name__} has no eval_step: "
                "write eval_step(batch, state, ctx), or set eval_every to 0",
            )

    def duties(self) -> Sequence[Duty]:
        return (Duty(self._every, self._evaluate, "evaluation"),)

    def _evaluate(self, run: Run) -> None:
        run.reporting.phase("evaluate", run.step)
        with untouched_rng():  # a run draws the same whether or not it is evaluated
            metrics = evaluate(run, self._open(run), self._most)
        run.metrics.update(metrics)
        run.reporting.metrics(run, metrics)
        run.reporting.phase("train", run.step)


def evaluate(run: Run, batches: Any, most: int = 0) -> dict[str, float]:
    """Return the means of what `eval_step` says of all batches, and what `eval_end` adds to them.

    Batches count by their weights, whichever process has had them. An `eval_end` that takes
    `metrics` is given the means; what it returns otherwise is the mean over the processes, by the
    weight of what each has had. Collective.

    Args:
        run: Whose trainer is asked.
        batches: From their beginning; as many in each process. A `Spare` one is not counted.
        most: Batches that are looked at; 0 looks at all.

    Raises:
        TrainingCanceled: The run is to stop.
    """
    trainer, state, ctx = run.trainer, run.state, run.ctx
    begin, end = (getattr(trainer, name, None) for name in ("eval_begin", "eval_end"))
    if callable(begin):
        begin(state, ctx)
    sums = Sums()
    try:
        _measure(run, islice(source_of(batches), most or None), sums)
        metrics = _of_all(run, sums)
    except BaseException:
        with suppress(Exception):  # the first error is what matters
            if callable(end):
                _ended(run, end, {})
        raise
    run.phase = "train-step"
    run.reporting.moved(run)
    added = _ended(run, end, metrics) if callable(end) else {}
    if not metrics:  # there were no batches
        return {}
    if run.world.size > 1 and callable(end):
        here = Sums()
        if sums.weight:
            here.add({**added, WEIGHT: sums.weight})
        added = _of_all(run, here)
    metrics |= added
    return {
        _PREFIX + name.removeprefix(_PREFIX): value
        for name, value in metrics.items()
        if name != WEIGHT
    }


def _measure(run: Run, batches: Iterator[Any], sums: Sums) -> None:
    trainer, state, ctx = run.trainer, run.state, run.ctx
    run.phase = "input"
    for raw in batches:
        if run.is_canceled():
            raise run.canceled()
        is_spare = isinstance(raw, Spare)
        prepared = trainer.prepare_batch(raw.batch if is_spare else raw, state, ctx)
        run.phase = "train-step"
        run.reporting.moved(run)
        said = require_metrics(trainer.eval_step(prepared, state, ctx), "eval_step")
        if not is_spare:
            sums.add(numbers(said, {}))
        run.phase = "input"


def _of_all(run: Run, sums: Sums) -> dict[str, float]:
    """Return the means over all processes, the same in each."""
    if run.world.size > 1:
        told = run.world.gather(sums.told())
        sums = Sums()
        for one in told:
            sums.hear(one)
    return sums.means()


def _ended(run: Run, end: Callable[..., Any], metrics: Mapping[str, float]) -> dict[str, float]:
    """Have the trainer end an evaluation; return what it adds."""
    added = end(run.state, run.ctx, **accepted(end, {"metrics": dict(metrics)}))
    return numbers(added, {}) if isinstance(added, Mapping) else {}
