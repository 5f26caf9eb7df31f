"""What is asked of webhooks, how they are tried, and what became of each."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import msgspec

__all__ = [
    "ALL_EVENTS",
    "Delivery",
    "DeliveryState",
    "WebhookEvent",
    "WebhookOptions",
    "WebhookStatistics",
]

WebhookEvent = Literal["started", "completed"]
ALL_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
DeliveryState = Literal["waiting", "pending", "delivered", "failed", "gone"]
"""`waiting` for its event, `pending` until a receiver has it, `failed` after the last try, `gone`
when the receiver answered 410, perhaps to another event of the request."""


class WebhookOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where webhooks may lead, and how long one is tried."""

    allow_private: bool = True
    """Whether private and loopback addresses are fine; not when others than this machine's own
    users reach the scheduler."""
    trusted: tuple[str, ...] = ()
    """URLs whose origins may have private addresses all the same."""
    timeout_s: float = 15.0
    """Of one attempt, from looking up the host to the answer's status."""
    first_retry_s: float = 5.0
    """After the first attempt; each further one waits three times as long as the one before."""
    max_retry_s: float = 3600.0
    give_up_after_s: float = 24 * 3600.0
    """Since the event; what was not delivered by then has failed."""
    max_at_once: int = 64
    max_per_host: int = 4
    max_body_bytes: int = 1024 * 1024
    """A request that is longer is told without its output and what it reported."""
    keep_s: float = 7 * 24 * 3600.0
    """How long what is over can be asked for."""


class Delivery(NamedTuple):
    """One event of one request, on its way to a URL. Times are Unix times."""

    seq: int
    event: WebhookEvent
    request_id: str
    webhook_id: str
    """The same at every attempt: by it a receiver knows what it has."""
    url: str
    state: DeliveryState
    attempts: int
    happened_at: float | None
    """When the event was seen; None while it is waited for."""
    next_at: float
    """Of the next attempt, while it is pending."""
    last_at: float | None
    """Of the last attempt."""
    last_status: int
    """What the receiver answered last; 0 when it did not."""
    last_error: str
    """Why the last attempt was none that counts; empty when it was."""


class WebhookStatistics(NamedTuple):
    """What was done since the start, and what is done now."""

    in_flight: int
    delivered: int
    failed: int
    """Given up, or ended by a 410."""
    attempts: int
