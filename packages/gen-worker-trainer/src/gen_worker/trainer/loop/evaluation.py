"""Looks now and then how good the model is on data that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.loop.duties import Duty
from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.loop.stepping import source_of
from gen_worker.trainer.metrics import WEIGHT, averaged, numbers, require_metrics
from gen_worker.trainer.state.rng import untouched_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.trainer.loop.running import Run

__all__ = ["Evaluation", "evaluate"]

_PREFIX = "eval/"


class Evaluation(Part):
    """Evaluates on all processes, each on all data, so that all know the same."""

    def __init__(self, every: int, open_batches: Callable[[Run], Any], most: int = 0) -> None:
        """Prepare.

        Args:
            every: Steps between two evaluations.
            open_batches: Returns the data, from their beginning.
            most: Batches of an evaluation; 0 takes all.
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

    Args:
        run: Whose trainer is asked.
        batches: From their beginning.
        most: Batches that are looked at; 0 looks at all.

    Raises:
        TrainingCanceled: The run is to stop.
    """
    trainer, state, ctx = run.trainer, run.state, run.ctx
    begin, end = (getattr(trainer, name, None) for name in ("eval_begin", "eval_end"))
    if callable(begin):
        begin(state, ctx)
    try:
        parts = list(_parts(run, islice(source_of(batches), most or None)))
    except BaseException:
        with suppress(Exception):  # the first error is what matters
            if callable(end):
                end(state, ctx)
        raise
    run.phase = "train-step"
    run.reporting.moved(run)
    added = end(state, ctx) if callable(end) else None
    if not parts:
        return {}
    metrics = averaged(parts)
    if isinstance(added, Mapping):
        metrics |= numbers(added, {})
    return {
        _PREFIX + name.removeprefix(_PREFIX): value
        for name, value in metrics.items()
        if name != WEIGHT
    }


def _parts(run: Run, batches: Iterator[Any]) -> Iterator[dict[str, float]]:
    trainer, state, ctx = run.trainer, run.state, run.ctx
    run.phase = "input"
    for raw in batches:
        if run.is_canceled():
            raise run.canceled()
        prepared = trainer.prepare_batch(raw, state, ctx)
        run.phase = "train-step"
        run.reporting.moved(run)
        yield numbers(require_metrics(trainer.eval_step(prepared, state, ctx), "eval_step"), {})
        run.phase = "input"
