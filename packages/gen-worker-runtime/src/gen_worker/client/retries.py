"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patience", "RetryPolicy", "read_retry_after"]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how slowly a client tries again.

    A stream that goes on counts anew. What may have had an effect is repeated only in ways that the
    host recognises.
    """

    attempts: int = 8
    """In all; 1 never tries again."""
    call_attempts: int = 3
    """How often a call is made that fails for a reason that may be gone the next time."""
    first_s: float = 0.1
    """The pause before the second attempt; each one after is twice as long."""
    max_s: float = 5.0
    jitter: float = 0.5
    """Which part of each pause is left to chance, so that clients do not return all at once."""
    max_retry_after_s: float = 60.0
    """A host that asks for a longer pause is not waited for."""

    def __post_init__(self) -> None:
        """Refuse what no policy is.

        Raises:
            ValueError: A number is out of its range.
        """
        for name in ("attempts", "call_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter!r}")
        if min(self.first_s, self.max_s, self.max_retry_after_s) < 0:
            raise ValueError("pauses must not be negative")


class Patience:
    """What is left of a policy for one undertaking."""

    def __init__(self, policy: RetryPolicy, chance: Callable[[], float] = random.random) -> None:
        """Begin with all of it.

        Args:
            policy: How often and how slowly.
            chance: Returns numbers from 0 to 1.
        """
        self._policy = policy
        self._chance = chance
        self._failures = 0

    def renew(self) -> None:
        """Count anew: something was achieved."""
        self._failures = 0

    def pause_s(self, retry_after_s: float = 0.0) -> float | None:
        """Return how long to wait after one more failure; None: give up.

        Args:
            retry_after_s: What the host asks for; 0 when it does not say.
        """
        policy = self._policy
        self._failures += 1
        if self._failures >= policy.attempts or retry_after_s > policy.max_retry_after_s:
            return None
        longest = min(policy.first_s * 2.0 ** min(self._failures - 1, 60), policy.max_s)
        pause_s = longest * (1.0 - policy.jitter * self._chance())
        return max(pause_s, retry_after_s)


def read_retry_after(header: str) -> float:
    """Return the seconds of a `Retry-After`; 0 when it names none."""
    text = header.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    return _seconds_until(text) if text else 0.0


def _seconds_until(date: str) -> float:
    import time
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
