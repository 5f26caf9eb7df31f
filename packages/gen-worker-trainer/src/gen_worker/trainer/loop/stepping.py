"""One step: from a batch, or from several, to what the trainer has learned of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gen_worker.trainer.loop.parts import points
from gen_worker.trainer.loop.running import Outcome
from gen_worker.trainer.metrics import require_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.trainer.loop.parts import Part
    from gen_worker.trainer.loop.running import Run

    Take = Callable[[Any], Outcome]

__all__ = ["END", "samples_in", "source_of", "stepping_of"]

END: Final = object()
"""In place of a batch, when there are no more."""


def source_of(batches: Any) -> Iterator[Any]:
    """Return an iterator over a source.

    Raises:
        TypeError: It is none.
    """
    iterate = getattr(batches, "iter_batches", None)
    if callable(iterate):
        return iter(iterate())
    if isinstance(batches, Iterable):
        return iter(batches)
    raise TypeError(
        f"batches are {type(batches).__name__}, and have to be iterable or have iter_batches()"
    )


def stepping_of(run: Run, parts: Sequence[Part], fetch: Callable[[], Any]) -> Take:
    """Return what does one step with a first batch, in the way that the trainer asks for.

    Args:
        run: What it is a step of.
        parts: May keep an optimizer from stepping.
        fetch: Returns a further batch, or `END`.

    Raises:
        ValueError: The count of micro-batches is none.
    """
    update = getattr(run.trainer, "optimizer_step", None)
    if not callable(update):
        return _Whole(run)
    given = run.ctx.job.hyperparams.get("gradient_accumulation_steps") or 1
    try:
        count = int(given)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ValueError(
            f"hyperparams.gradient_accumulation_steps is {given!r}, and has to be a number from 1"
        )
    return _Accumulated(run, count, fetch, points(parts, "before_update"))


class _Whole:
    """`train_step` does everything."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._prepare = run.trainer.prepare_batch
        self._train = run.trainer.train_step

    def __call__(self, raw: Any) -> Outcome:
        return Outcome((self.micro(raw),), None, samples_in(raw))

    def micro(self, raw: Any) -> Any:
        run = self._run
        run.phase = "input"
        prepared = self._prepare(raw, run.state, run.ctx)
        run.phase = "train-step"
        result = self._train(prepared, run.state, run.ctx)
        require_metrics(result)
        return result


class _Accumulated:
    """`train_step` adds gradients up, and `optimizer_step` makes a step of them."""

    def __init__(
        self,
        run: Run,
        count: int,
        fetch: Callable[[], Any],
        checks: Sequence[Callable[[Run, Sequence[Any]], bool]],
    ) -> None:
        self._run = run
        self._micro = _Whole(run).micro
        self._count = count
        self._fetch = fetch
        self._checks = checks
        self._update = run.trainer.optimizer_step

    def __call__(self, raw: Any) -> Outcome:
        run = self._run
        results: list[Any] = []
        samples = 0
        while raw is not END:
            results.append(self._micro(raw))
            samples += samples_in(raw)
            if len(results) == self._count:
                break
            run.phase = "input"
            raw = self._fetch()
        run.phase = "train-step"
        if not all([check(run, results) for check in self._checks]):
            return Outcome(results, None, samples)
        return Outcome(results, self._update(run.state, run.ctx), samples)


def samples_in(raw: Any) -> int:
    """Return how many samples a raw batch has: its rows, or the length of its lists, else 1."""
    rows = getattr(raw, "num_rows", None)
    if isinstance(rows, int):
        return rows
    if isinstance(raw, Mapping):
        raw = next(iter(raw.values()), None)
    return len(raw) if isinstance(raw, (list, tuple)) else 1
