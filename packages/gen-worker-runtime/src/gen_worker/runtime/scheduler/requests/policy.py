"""Whether a request that failed is tried again, and when."""

from __future__ import annotations

import msgspec

__all__ = ["RetryPolicy"]


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
