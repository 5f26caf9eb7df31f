"""Webhooks: what happens to a request is told to a URL, signed, until somebody there has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.webhooks.routes import WebhookRoutes
    from gen_worker.runtime.scheduler.webhooks.secrets import WebhookSecrets
    from gen_worker.runtime.scheduler.webhooks.signing import (
        WebhookSignatureError,
        signatures,
        verify,
    )
    from gen_worker.runtime.scheduler.webhooks.values import (
        Delivery,
        DeliveryState,
        WebhookEvent,
        WebhookOptions,
        WebhookStatistics,
    )
    from gen_worker.runtime.scheduler.webhooks.webhooks import Webhooks

__all__ = [
    "Delivery",
    "DeliveryState",
    "WebhookEvent",
    "WebhookOptions",
    "WebhookRoutes",
    "WebhookSecrets",
    "WebhookSignatureError",
    "WebhookStatistics",
    "Webhooks",
    "signatures",
    "verify",
]

_MODULES = {
    "routes": ("WebhookRoutes",),
    "secrets": ("WebhookSecrets",),
    "signing": ("WebhookSignatureError", "signatures", "verify"),
    "values": (
        "Delivery",
        "DeliveryState",
        "WebhookEvent",
        "WebhookOptions",
        "WebhookStatistics",
    ),
    "webhooks": ("Webhooks",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
