"""A request that has not ended, and who is concerned with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from gen_worker.runtime.scheduler.job_options import JobOptions

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler.requests.writing import Step
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent

__all__ = ["Live", "Place", "Runner", "Watcher"]

Place = Literal["queue", "later", "dispatcher", "worker", "between", "over"]
"""Where a request is: it waits for its turn; it waits until it is due; it was taken and is not
given yet; a worker has it; an attempt is over and that is being written; it has ended."""


class Watcher(Protocol):
    """Follows one request, or all of them."""

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        """Take what a request has produced. On the loop, in order; must not block.

        Called once all of it is on disk, and for the last time with `record.ending` set, after
        which it is watched no more. Without events when the request is new, and when a worker was
        given an attempt, which may be on disk a little later.
        """
        ...


class Runner(Protocol):
    """Who has requests run: the dispatcher. On the loop; what it is told must not block."""

    def wake(self, queue: str) -> None:
        """Look at a queue: somebody waits there who did not before, or another's turn has come."""
        ...

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        """Have the worker stop a request that was given or adopted.

        What the worker then says goes to `ended` or `failed` as ever. With the reason `deadline`,
        and where a cancel's grace has passed, the request ends at once, so that the worker may
        still be busy with one that is over: its place there is free when the worker says so.
        """
        ...


class Live:
    """A request that has not ended. Only `Requests` changes it."""

    __slots__ = (
        "_options",
        "cancel_reason",
        "ends_by",
        "is_ending",
        "lost",
        "pending",
        "place",
        "queue",
        "record",
        "watchers",
    )

    def __init__(self, record: RequestRecord, queue: str, options: bytes) -> None:
        self.record = record
        """As it was committed last; that a worker was given it may be committed a little later."""
        self.queue = queue
        """Where it waits: its release, its function and the models its caller chose."""
        self._options = options
        self.place: Place = "between"
        self.cancel_reason: CancelReason | None = None
        """Why it is to stop; None when it is not."""
        self.ends_by: float | None = None
        """When it is ended as canceled, whatever its worker does."""
        self.lost = 0
        """Attempts that ended because their worker was lost."""
        self.is_ending = False
        """Whether its end, which nothing can prevent, is being written."""
        self.pending: deque[Step] | None = None
        """What is yet to be written of it; the writer's."""
        self.watchers: tuple[Watcher, ...] = ()

    def __repr__(self) -> str:
        return f"<Live {self.request_id!r} of {self.queue!r}, attempt {self.attempt}, {self.place}>"

    @property
    def options(self) -> JobOptions:
        """What a worker is to be told besides the payload.

        Read anew each time, so that those of many that wait take no memory.
        """
        return JobOptions.decode(self._options)

    @property
    def seq(self) -> int:
        return self.record.seq

    @property
    def request_id(self) -> str:
        return self.record.request_id

    @property
    def attempt(self) -> int:
        """Which attempt waits or runs."""
        return self.record.attempt

    @property
    def worker_id(self) -> str:
        """Who runs it; empty when nobody does."""
        return self.record.worker_id

    @property
    def is_canceling(self) -> bool:
        return self.cancel_reason is not None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and that is on disk."""
        return self.place == "over"
