"""The scheduler's end of the worker protocol: a gRPC server, and a session for each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.gateway.server import Gateway
    from gen_worker.runtime.scheduler.gateway.session import Session
    from gen_worker.runtime.scheduler.gateway.values import (
        GatewayHandler,
        GatewayOptions,
        GatewayStatistics,
        ListenError,
        Passage,
        SessionStatistics,
    )

__all__ = [
    "Gateway",
    "GatewayHandler",
    "GatewayOptions",
    "GatewayStatistics",
    "ListenError",
    "Passage",
    "Session",
    "SessionStatistics",
]

_MODULES = {
    "server": ("Gateway",),
    "session": ("Session",),
    "values": (
        "GatewayHandler",
        "GatewayOptions",
        "GatewayStatistics",
        "ListenError",
        "Passage",
        "SessionStatistics",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
