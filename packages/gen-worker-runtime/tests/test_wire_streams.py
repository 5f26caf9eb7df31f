"""Which streams there are, and which message belongs on which."""

from __future__ import annotations

from typing import Any

from gen_worker.pb import worker_scheduler_pb2 as pb
from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    DiagnosticLog,
    JobResult,
    StreamDone,
    StreamError,
    TokenDelta,
    WorkerEvent,
    decode,
    role_of,
)

OWN_STREAMS = {
    JobResult: "results",
    WorkerEvent: "events",
    DiagnosticLog: "events",
    TokenDelta: "events",
    StreamDone: "events",
    StreamError: "events",
}


def test_each_role_has_the_full_path_of_its_method() -> None:
    service = pb.DESCRIPTOR.services_by_name["SchedulerWorkerService"]
    names = {"control": "ConnectWorker", "results": "WorkerResults", "events": "WorkerEvents"}
    assert METHODS == {role: f"/{service.full_name}/{name}" for role, name in names.items()}
    assert set(names.values()) == {method.name for method in service.methods}


def test_every_message_has_a_stream() -> None:
    for field in pb.WorkerSchedulerMessage.DESCRIPTOR.fields:
        empty: Any = {field.name: {}}
        message = decode(pb.WorkerSchedulerMessage(**empty).SerializeToString())
        assert message is not None
        assert role_of(message) == OWN_STREAMS.get(type(message), "control")


def test_channels_notice_a_dead_peer_and_take_large_messages() -> None:
    assert dict(CHANNEL_OPTIONS) == {
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.max_receive_message_length": 67_108_864,
        "grpc.max_send_message_length": -1,
    }
