"""The three streams of a connection: how they are called, and which message goes where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.wire.reports import (
    DiagnosticLog,
    JobResult,
    StreamDone,
    StreamError,
    TokenDelta,
    WorkerEvent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.wire.codec import Message
    from gen_worker.runtime.wire.reports import StreamRole

__all__ = [
    "CHANNEL_OPTIONS",
    "MAX_OUTPUT_BYTES",
    "MAX_RECEIVE_BYTES",
    "METHODS",
    "SERVER_OPTIONS",
    "SERVICE",
    "role_of",
]

SERVICE = "scheduler.v1.SchedulerWorkerService"

METHODS: Mapping[StreamRole, str] = {
    "control": f"/{SERVICE}/ConnectWorker",
    "results": f"/{SERVICE}/WorkerResults",
    "events": f"/{SERVICE}/WorkerEvents",
}
"""The full path of each stream's method: both ways streams of envelopes."""

MAX_RECEIVE_BYTES = 64 * 1024 * 1024
MAX_OUTPUT_BYTES = MAX_RECEIVE_BYTES - 1024 * 1024
"""Of what a function produced, in one message: whoever gets it has our limit, and more to read."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
)
"""Of every channel. What is sent has no limit of gRPC's: an output is too long by our own rules."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    ("grpc.http2.max_ping_strikes", 0),
)
"""Of a server that workers connect to. By default it would take their pings over streams that are
silent for an attack, and after a minute or two have no more of the connection."""

_ROLES: Mapping[type, StreamRole] = {
    JobResult: "results",
    WorkerEvent: "events",
    DiagnosticLog: "events",
    TokenDelta: "events",
    StreamDone: "events",
    StreamError: "events",
}


def role_of(message: Message) -> StreamRole:
    """Return the stream a message belongs on when there are three; with one, all go there."""
    return _ROLES.get(type(message), "control")
