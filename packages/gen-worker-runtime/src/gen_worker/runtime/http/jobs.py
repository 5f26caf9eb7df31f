"""Requests that outlive their client's connection: submitted, looked at, followed, canceled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation

__all__ = ["NO_WISHES", "HookWish", "Job", "Jobs", "Reader", "Status", "Wishes"]

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]


class HookWish(msgspec.Struct, frozen=True):
    """Whom a caller wants to be told what becomes of a request."""

    url: str
    events: tuple[str, ...] = ()
    """Of which; empty leaves it to the host."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants besides the call itself."""

    priority: int = 0
    """Greater comes earlier among the same owner's."""
    webhook: HookWish | None = None


NO_WISHES = Wishes()


class Reader(Protocol):
    """One client that follows a request's events."""

    async def read(self) -> bytes:
        """Return the next events as a stream shows them, waiting for some; empty at the end."""
        ...

    def ping(self) -> None:
        """Have `read` return, with nothing but a sign of life when there is nothing else."""
        ...

    def close(self) -> None:
        """Stop reading. Exactly once."""
        ...


class Job(Protocol):
    """One submitted request."""

    request_id: str
    function: str
    owner: str | None
    """Whose it is."""

    @property
    def status(self) -> Status: ...
    @property
    def failure(self) -> Failure | None:
        """Why it failed, once it has."""
        ...

    @property
    def last_event_id(self) -> int: ...
    async def answer(self) -> bytes:
        """Return the body of an answer; of a request under way what is known so far."""
        ...

    async def wait(self) -> None:
        """Wait until it has ended."""
        ...

    async def cancel(self, reason: CancelReason) -> bool:
        """Cancel it; False when it has ended, or was canceled before."""
        ...

    def read(self, after: int) -> Reader:
        """Follow its events, from the first whose id is greater than `after`."""
        ...


class Jobs(Protocol):
    """Submitted requests, wherever they are kept. Called on the loop."""

    @property
    def running(self) -> int:
        """How many would be lost if this process ended."""
        ...

    @property
    def idle_s(self) -> float:
        """Seconds since the last one ended; 0 while one runs, infinite when there was none."""
        ...

    async def submit(
        self,
        invocation: Invocation,
        *,
        key: str = "",
        body: bytes = b"",
        wishes: Wishes = NO_WISHES,
    ) -> Job:
        """Start a request, or return the one that was started with the same key.

        Args:
            invocation: What to call.
            key: The caller's `Idempotency-Key`.
            body: What makes two requests the same.
            wishes: What else its caller wants.

        Raises:
            Refusal: 400, this host does not do what is wished for; 409, the key belongs to another
                body, or the id to another request.
            WorkerError: It was not accepted, for a reason that the error table has.
        """
        ...

    async def find(self, request_id: str) -> Job | None: ...
