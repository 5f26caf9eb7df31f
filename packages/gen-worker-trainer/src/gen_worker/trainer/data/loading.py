"""Runs what a trainer does to a batch before it needs the model in threads, ahead of the steps."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from gen_worker.trainer.data.cursor import BatchSource, Cursor

__all__ = ["LoadedBatches"]


class LoadedBatches:
    """A source whose batches are loaded by the trainer's own hook, some of them ahead."""

    def __init__(
        self,
        source: BatchSource,
        load: Callable[[Any, int], Any],
        *,
        ahead: int,
        threads: int = 4,
        may_omit: bool = True,
    ) -> None:
        """Prepare.

        Args:
            source: Of raw batches.
            load: Called in threads with a raw batch and its epoch; returns what `prepare_batch`
                gets, or None for a batch that is to be left out.
            ahead: Batches that are in memory before they are asked for; 0 loads in the loop.
            threads: Batches that are loaded at a time.
            may_omit: Whether a batch may be left out; not where other processes have their own
                batches of the same step, which would then be another one's.
        """
        self._source = source
        self._load = load
        self._ahead = ahead
        self._may_omit = may_omit
        self._threads = max(1, min(threads, ahead))
        self._cursor: Cursor | None = None

    def cursor(self) -> Cursor:
        """Return where the batch begins that comes after the one given last."""
        return self._source.cursor() if self._cursor is None else self._cursor

    def seek(self, cursor: Cursor) -> None:
        self._source.seek(cursor)
        self._cursor = None

    def iter_batches(self) -> Iterator[Any]:
        """Yield loaded batches from the cursor on; what loading one raises is raised here.

        Raises:
            InputMaterializationError: A batch would be left out that must not be.
        """
        if self._cursor is None:
            self._cursor = self._source.cursor()
        else:  # of an iteration that had read ahead
            self._source.seek(self._cursor)
        raw_batches = self._source.iter_batches()
        waiting: deque[tuple[Future[Any], Cursor]] = deque()
        with ThreadPoolExecutor(self._threads, "gen-worker-loading") as pool:
            try:
                for raw in raw_batches:
                    cursor = self._source.cursor()
                    waiting.append((pool.submit(self._load, raw, cursor.epoch), cursor))
                    if len(waiting) > self._ahead:
                        yield from self._taken(waiting)
                while waiting:
                    yield from self._taken(waiting)
            finally:
                for future, _ in waiting:
                    future.cancel()
                close = getattr(raw_batches, "close", None)
                if callable(close):
                    close()

    def _taken(self, waiting: deque[tuple[Future[Any], Cursor]]) -> Iterator[Any]:
        future, cursor = waiting.popleft()
        loaded = future.result()
        self._cursor = cursor
        if loaded is not None:
            yield loaded
        elif not self._may_omit:
            raise InputMaterializationError(
                f"nothing of a batch of epoch {cursor.epoch} can be used, and the run's other "
                "processes have one for this step: mend the data, or make batches larger"
            )
