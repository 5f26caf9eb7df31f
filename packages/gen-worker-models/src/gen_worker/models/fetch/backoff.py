"""How long to wait before a failed request is tried again, and when to stop trying."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff", "RetryLimits"]


class RetryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential backoff with full jitter: each wait is random between 0 and a doubling bound."""

    factor_s: float = 1.0
    """Bound of the first wait."""
    cap_s: float = 30.0
    """Bound of every wait."""
    max_tries: int = 30
    """Failures in a row, with no new block in between."""
    max_elapsed_s: float = 3600.0
    """Seconds since the last new block."""
    max_retry_after_s: float = 300.0
    """The longest wait a server may ask for."""


class Backoff:
    """Counts the failures of one download since it last came forward."""

    def __init__(
        self,
        limits: RetryLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._uniform = uniform
        self.tries = 0
        self._since = clock()

    def came_forward(self) -> None:
        """Forget earlier failures: new bytes are on disk."""
        self.tries = 0
        self._since = self._clock()

    def next_wait_s(self, retry_after_s: float | None = None) -> float | None:
        """Count a failure; return how long to wait, None when it was the last one.

        Args:
            retry_after_s: What the server asked for.
        """
        limits = self._limits
        self.tries += 1
        # 2**30 is beyond any cap, and a float of 2**1100 does not exist.
        bound_s = min(limits.cap_s, limits.factor_s * 2.0 ** min(self.tries - 1, 30))
        wait_s = self._uniform(0.0, bound_s)
        if retry_after_s is not None:
            wait_s = max(wait_s, min(retry_after_s, limits.max_retry_after_s))
        is_over = self._clock() + wait_s - self._since > limits.max_elapsed_s
        return None if self.tries >= limits.max_tries or is_over else wait_s
