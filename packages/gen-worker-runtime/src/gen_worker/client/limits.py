"""How long one undertaking may take, and how patiently it is pursued."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gen_worker.client.errors import deadline_error
from gen_worker.client.retries import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.client.errors import CallError
    from gen_worker.client.retries import RetryPolicy

__all__ = ["Limits"]

_TICK_S = 0.01  # a wait for the end itself may be over so much earlier


class Limits:
    """Of one undertaking, counted from when it is made."""

    def __init__(
        self,
        retry: RetryPolicy,
        silence_s: float,
        *,
        timeout_s: float | None = None,
        grace_s: float = 0.0,
        request_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            retry: How often to try.
            silence_s: How long a connection may say nothing.
            timeout_s: How long all of it may take; None does not end it.
            grace_s: How much longer to wait for a host that keeps the same time itself.
            request_id: For the error.
            clock: Seconds.
        """
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, not {timeout_s!r}")
        self.retry = retry
        self.request_id = request_id
        self._silence_s = silence_s
        self._clock = clock
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._end = None if timeout_s is None else clock() + timeout_s

    def patience(self) -> Patience:
        return Patience(self.retry)

    def left_s(self) -> float | None:
        """Return what is left without the grace; None when there is no end.

        Raises:
            DeadlineExceededError: Nothing is.
        """
        if self._end is None:
            return None
        left_s = self._end - self._clock()
        if left_s <= 0:
            raise self._passed()
        return left_s

    def silence_s(self) -> float:
        """Return how long to wait for the next sign of the host.

        Raises:
            DeadlineExceededError: There is no time left.
        """
        if self._end is None:
            return self._silence_s
        self.check()
        return min(self._silence_s, max(self._last_s(), _TICK_S))

    def check(self) -> None:
        """Raise `DeadlineExceededError` when the time, with the grace, is over."""
        if self._end is not None and self._last_s() < _TICK_S:
            raise self._passed()

    def _last_s(self) -> float:
        assert self._end is not None, "there is an end"
        return self._end + self._grace_s - self._clock()

    def allowed(self, pause_s: float, failure: CallError) -> float:
        """Return a pause that there is time for.

        Raises:
            CallError: There is none; the failure that would have been followed by it.
        """
        if self._end is not None and self._clock() + pause_s >= self._end:
            raise failure
        return pause_s

    def _passed(self) -> CallError:
        return deadline_error(f"there was no answer within {self._timeout_s:g} s", self.request_id)
