"""The requests that have not ended: the owner of ledger and queue while the scheduler runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.requests.policy import RetryPolicy
from gen_worker.runtime.scheduler.waiting import WaitingLimits

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.job_options import JobOptions
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live, Runner, Watcher
    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestRecord,
        Submission,
        Submitted,
    )

__all__ = ["RequestOptions", "Requests"]


class RequestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How requests wait, and how long they are waited for."""

    waiting: WaitingLimits = WaitingLimits()
    retries: RetryPolicy = RetryPolicy()
    cancel_grace_s: float = 5.0
    """How long a worker may take to stop a request before it is ended as canceled anyway."""
    max_uncommitted_bytes: int = 64 * 1024**2
    """What workers have said and the disk has not taken; beyond it `is_behind` says so."""


class Requests:
    """All requests that have not ended. On the ledger's loop."""

    def __init__(
        self,
        ledger: Ledger,
        options: RequestOptions | None = None,
        *,
        clock: Callable[[], float],
        weight_of: Callable[[str], float] = lambda _owner: 1.0,
    ) -> None:
        """Begin with none; `start` reads those of the ledger.

        Args:
            ledger: Open; closed by its owner after this.
            options: Bounds and times.
            clock: Unix time, the ledger's own.
            weight_of: An owner's share compared with others'.
        """
        raise NotImplementedError

    runner: Runner
    """Set before `start`."""

    async def start(self) -> None:
        """Read what has not ended. What waited waits again, or until it is due.

        What was running stays with its worker (`running`): the dispatcher says `adopted` once the
        worker names it, or `failed(..., is_worker_lost=True)` when it does not.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Stop timers and wait for what is being written; nothing is accepted any more."""
        raise NotImplementedError

    # -- clients -----------------------------------------------------------------------------------

    async def submit(self, submission: Submission, options: JobOptions) -> Submitted:
        """Accept a request: it is on disk and waits when this returns, also if nobody awaits it.

        It has its place in the ledger's order before this first suspends. The submission's own
        `options` are replaced by the encoded ones.

        Raises:
            OverloadedError: Too many wait.
            KeyConflictError: The key belongs to another request.
            DuplicateRequestError: There is a request with this id.
            LedgerWriteError: The disk is full; it was not accepted.
        """
        raise NotImplementedError

    async def earlier(self, owner: str, key: str, digest: bytes) -> RequestRecord | None:
        """Return the request that a key belongs to, if it is not to be tried again.

        Raises:
            KeyConflictError: Its digest is another.
        """
        raise NotImplementedError

    async def cancel(self, request_id: str, reason: CancelReason = "caller") -> bool:
        """Cancel a request; False when it has ended, or was canceled before.

        One that waits has ended when this returns. One that runs is interrupted, and ends as
        canceled after `cancel_grace_s`, whatever its worker does; a restart does not forget it.

        Raises:
            LedgerWriteError: The disk is full; nothing is canceled.
        """
        raise NotImplementedError

    def live(self, request_id: str) -> Live | None:
        """Return a request that has not ended; None: ask the ledger."""
        raise NotImplementedError

    def by_seq(self, seq: int) -> Live | None:
        """Return a request that has not ended; None: ask the ledger."""
        raise NotImplementedError

    def position(self, request_id: str) -> int | None:
        """Return how many have their turn before; None when it does not wait for its turn."""
        raise NotImplementedError

    def watch(self, seq: int, watcher: Watcher) -> bool:
        """Have a request followed; False when it has ended, so that the ledger has all of it.

        Watch first, then read what the ledger has: what is told twice has the same numbers.
        """
        raise NotImplementedError

    def unwatch(self, seq: int, watcher: Watcher) -> None:
        """Follow it no more."""
        raise NotImplementedError

    def watch_all(self, watcher: Watcher) -> None:
        """Have every request followed; `by_seq` still finds one while its end is told."""
        raise NotImplementedError

    # -- the dispatcher ----------------------------------------------------------------------------

    def first(self, queue: str) -> Live | None:
        """Return the request whose turn it is; None when nobody waits."""
        raise NotImplementedError

    def take(self, queue: str) -> Live | None:
        """Take the request whose turn it is: it is to be given, or put back."""
        raise NotImplementedError

    def put_back(self, live: Live) -> None:
        """Have a request wait again that no worker has taken; no attempt is spent.

        Nothing happens when it has ended meanwhile, or waits already.
        """
        raise NotImplementedError

    def given(self, live: Live, worker_id: str) -> int:
        """Note that a worker was given a request that was taken; return the attempt's number."""
        raise NotImplementedError

    def adopted(self, live: Live, worker_id: str) -> int | None:
        """Take a worker's word that it runs a request, as after a restart of the scheduler.

        Returns:
            The attempt it goes on with, also one that waited meanwhile. None: it has ended, or
            another worker has it.
        """
        raise NotImplementedError

    def produced(self, live: Live, attempt: int, events: Sequence[NewEvent]) -> Future[None]:
        """Keep what an attempt has produced; done once that is on disk, or counts no more.

        Only the attempt and the sequence of each event decide whether it is new. Await it, or
        stop reading from the worker while `is_behind`.
        """
        raise NotImplementedError

    def ended(self, live: Live, attempt: int, ending: Ending, event: NewEvent) -> Future[None]:
        """End a request, after all that it has produced; done once that is on disk.

        Of a request that is being canceled, a failure is its cancel.
        """
        raise NotImplementedError

    def failed(
        self, live: Live, attempt: int, failure: Failure, *, is_worker_lost: bool = False
    ) -> Future[None]:
        """Have a request that failed tried again, or end it; done once that is on disk.

        Nothing happens when that attempt is over already.
        """
        raise NotImplementedError

    @property
    def is_behind(self) -> bool:
        """Whether the disk has to catch up before workers are read from."""
        raise NotImplementedError

    # -- what is known -----------------------------------------------------------------------------

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Live]:
        raise NotImplementedError

    def running(self) -> Iterator[Live]:
        """Yield those that a worker has, or had when the scheduler was stopped."""
        raise NotImplementedError

    def queues(self) -> dict[str, int]:
        """Return how many wait for their turn, by queue; empty queues are left out."""
        raise NotImplementedError

    def oldest(self, queue: str) -> float | None:
        """Return when the request came that waits longest; None when nobody waits."""
        raise NotImplementedError
