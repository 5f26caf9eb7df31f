"""Work that goes on beside the run: one piece at a time, and its errors are not lost."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """Does what it is given in a thread that the process waits for when it ends.

    All methods are for one thread: the one that gives the work.
    """

    def __init__(self, name: str) -> None:
        """Begin with nothing to do.

        Args:
            name: Of its threads.
        """
        self._name = name
        self._thread: threading.Thread | None = None
        self._results: deque[T] = deque()
        self._error: BaseException | None = None

    def start(self, work: Callable[[], T]) -> None:
        """Have something done, once what was given before is.

        Raises:
            BaseException: What that has raised; the new work is not begun then.
        """
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name=self._name)
        self._thread.start()

    def wait(self) -> None:
        """Block until nothing is being done.

        Raises:
            BaseException: What the work has raised, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def results(self, *, wait: bool) -> Iterator[T]:
        """Yield what is done and was not yielded before.

        Args:
            wait: Whether to block until nothing is being done.

        Raises:
            BaseException: What the work has raised, once, after the results of what came before.
        """
        while self._results:
            yield self._results.popleft()
        if self._thread is not None and (wait or not self._thread.is_alive()):
            self.wait()
            yield from self.results(wait=False)

    def _do(self, work: Callable[[], T]) -> None:
        try:
            self._results.append(work())
        except BaseException as error:  # raised where the end is asked for
            self._error = error
