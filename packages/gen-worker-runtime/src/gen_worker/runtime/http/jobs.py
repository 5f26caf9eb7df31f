"""Requests that outlive their client's connection: submitted, looked at, followed, canceled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation

__all__ = ["Job", "Jobs", "Reader", "Status"]

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]


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

    async def submit(self, invocation: Invocation, *, key: str = "", body: bytes = b"") -> Job:
        """Start a request, or return the one that was started with the same key.

        Args:
            invocation: What to call.
            key: The caller's `Idempotency-Key`.
            body: What makes two requests the same.

        Raises:
            Refusal: 409, the key belongs to another body, or the id to another request.
            UnknownFunctionError: There is no such function, if the backend's `find` did not say so.
            OverloadedError: There are too many.
        """
        ...

    async def find(self, request_id: str) -> Job | None: ...
