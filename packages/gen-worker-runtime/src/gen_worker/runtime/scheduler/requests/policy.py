"""Whether a request that failed is tried again, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import FatalError, classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.errors import Failure

__all__ = ["Attempts", "RetryPolicy"]

_MAX_DOUBLINGS = 32


class Attempts(NamedTuple):
    """What a request has behind it, the attempt that is just over included."""

    made: int
    lost: int
    """Those of them that ended because their worker was lost."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and after how long."""

    max_attempts: int = 3
    """That failed by themselves."""
    max_lost: int = 3
    """Attempts whose worker was lost, counted apart: it may be the request that kills workers."""
    first_delay_s: float = 0.5
    """After the first failure; doubles with each."""
    max_delay_s: float = 30.0
    jitter: float = 0.5
    """Up to this share of a delay is left out at random, so that not all come back at once."""

    def last_word(
        self, attempts: Attempts, failure: Failure, *, is_worker_lost: bool
    ) -> Failure | None:
        """Return how a request ends whose attempt failed; None when it is tried again."""
        if is_worker_lost:
            return _killer(attempts.lost) if attempts.lost >= self.max_lost else None
        if not failure.retryable:
            return failure
        failed = attempts.made - attempts.lost
        if failed < self.max_attempts:
            return None
        times = "once" if failed == 1 else f"{failed} times"
        return msgspec.structs.replace(failure, message=f"{failure.message} (it failed {times})")

    def delay_s(self, attempts: Attempts, failure: Failure, random: Callable[[], float]) -> float:
        """Return how long the next attempt waits.

        Args:
            attempts: So far.
            failure: Of the last; it may ask for more time.
            random: Gives numbers from 0 up to 1.
        """
        doubled_s = self.first_delay_s * 2.0 ** min(attempts.made - 1, _MAX_DOUBLINGS)
        delay_s = min(doubled_s, self.max_delay_s) * (1.0 - self.jitter * random())
        return max(delay_s, min(failure.retry_after_s or 0.0, self.max_delay_s))


def _killer(lost: int) -> Failure:
    times = "once" if lost == 1 else f"{lost} times"
    return classify(
        FatalError(
            f"its worker was lost {times} while it ran, so the request itself may be what kills "
            "workers: look into their logs before it is submitted again"
        )
    )
