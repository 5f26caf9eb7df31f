"""The client of gen-worker's HTTP API: of `gen-worker serve --http`, and of a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.client.async_handles import AsyncFile, AsyncRequest
    from gen_worker.client.asynchronous import AsyncClient
    from gen_worker.client.blocking import Client
    from gen_worker.client.blocking_handles import File, Request
    from gen_worker.client.errors import (
        CallError,
        StreamGapError,
        StreamRestartedError,
        UnknownRequestError,
        UnreachableError,
    )
    from gen_worker.client.retries import RetryPolicy
    from gen_worker.client.stubs import generate
    from gen_worker.client.values import StreamEvent

_MODULES = {
    "asynchronous": ("AsyncClient",),
    "async_handles": ("AsyncFile", "AsyncRequest"),
    "blocking": ("Client",),
    "blocking_handles": ("File", "Request"),
    "errors": (
        "CallError",
        "StreamGapError",
        "StreamRestartedError",
        "UnknownRequestError",
        "UnreachableError",
    ),
    "retries": ("RetryPolicy",),
    "stubs": ("generate",),
    "values": ("StreamEvent",),
}

__all__ = [  # noqa: RUF022  # in the order of the table
    "AsyncClient",
    "AsyncFile",
    "AsyncRequest",
    "Client",
    "File",
    "Request",
    "CallError",
    "StreamGapError",
    "StreamRestartedError",
    "UnknownRequestError",
    "UnreachableError",
    "RetryPolicy",
    "generate",
    "StreamEvent",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
