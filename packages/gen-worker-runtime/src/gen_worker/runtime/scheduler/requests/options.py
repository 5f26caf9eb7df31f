"""What the operator decides about requests."""

from __future__ import annotations

import msgspec

from gen_worker.runtime.scheduler.requests.policy import RetryPolicy
from gen_worker.runtime.scheduler.waiting import WaitingLimits

__all__ = ["RequestOptions"]


class RequestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How requests wait, and how long they are waited for."""

    waiting: WaitingLimits = WaitingLimits()
    retries: RetryPolicy = RetryPolicy()
    cancel_grace_s: float = 5.0
    """How long a worker may take to stop a request before it is ended as canceled anyway."""
    max_uncommitted_bytes: int = 64 * 1024**2
    """What workers have said and the disk has not taken; beyond it `is_behind` says so."""
