"""The processes of one run, as the loop sees them; this module knows neither torch nor network."""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

__all__ = ["ALONE", "World"]

T = TypeVar("T")


class World(Protocol):
    """The processes that train one model together; only the first writes what others read.

    `any`, `barrier`, `arrive`, `broadcast` and `gather` are collective: every process calls them,
    in the same order, from the thread that trains, and each waits for the others. They raise when
    one is gone.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int: ...
    @property
    def local_rank(self) -> int:
        """Number of this process on its machine, from 0."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether this one writes events, JSON and samples, and uploads."""
        ...

    def any(self, flag: bool, /) -> bool:
        """Tell whether the flag is true in any process."""
        ...

    def barrier(self) -> None: ...
    def arrive(self) -> None:
        """Wait until every process has come here, as long as none has failed; collective.

        Raises:
            OtherProcessError: One has, and will not come.
        """
        ...

    def fail(self, error: BaseException, /) -> None:
        """Tell the others at once that this process has failed. Not collective."""
        ...

    def broadcast(self, value: T, /) -> T:
        """Return the first process's value, which JSON can hold."""
        ...

    def gather(self, value: T, /) -> list[T]:
        """Return every process's value, by rank; JSON can hold them."""
        ...

    def beside(self) -> World:
        """Return the same processes for a thread beside the one that trains; collective."""
        ...

    def cause_of(self, error: BaseException, /) -> BaseException:
        """Return what an error here is put down to: another process's error if that came first.

        It tells the others of the error. Not collective, and called once: the run is over then.
        """
        ...


class _Alone:
    """The world of a run that has one process: no call of it costs or waits."""

    rank: Final = 0
    size: Final = 1
    local_rank: Final = 0
    is_first: Final = True

    def any(self, flag: bool, /) -> bool:
        return flag

    def barrier(self) -> None:
        """Return; nobody else is to come."""

    def arrive(self) -> None:
        """Return; nobody else is to come."""

    def fail(self, error: BaseException, /) -> None:
        """Nobody is to be told."""

    def broadcast(self, value: T, /) -> T:
        return value

    def gather(self, value: T, /) -> list[T]:
        return [value]

    def beside(self) -> World:
        return self

    def cause_of(self, error: BaseException, /) -> BaseException:
        return error

    def __repr__(self) -> str:
        return "ALONE"


ALONE: Final[World] = _Alone()
"""What a run without other processes is given."""
