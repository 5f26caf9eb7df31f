"""Bytes of the wire to values and back, both ways: the worker's end and the orchestrator's."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gen_worker.errors import WorkerError
from gen_worker.pb.worker_scheduler_pb2 import WorkerSchedulerMessage
from gen_worker.runtime.wire.commands import Inbound
from gen_worker.runtime.wire.decoding import READERS
from gen_worker.runtime.wire.encoding import ENVELOPE_FIELDS
from gen_worker.runtime.wire.reports import Outbound

__all__ = ["MalformedMessageError", "Message", "UnencodableMessageError", "decode", "encode"]

Message = Inbound | Outbound


class MalformedMessageError(WorkerError, ValueError):
    """Bytes of a peer that are no message of the protocol."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes are no message of scheduler.v1: the peer is broken")
        self.size_bytes = size_bytes


class UnencodableMessageError(WorkerError, ValueError):
    """A value holds what the wire has no place for: half a character, or too large a number."""

    def __init__(self, message_type: str, problem: str) -> None:
        super().__init__(f"a {message_type} cannot be sent: {problem}")
        self.message_type = message_type


def encode(message: Message) -> bytes:
    """Return the envelope of a message, the same for every stream. Thread-safe.

    Raises:
        UnencodableMessageError: A field holds what the wire cannot carry.
    """
    envelope = WorkerSchedulerMessage()
    field, fill = ENVELOPE_FIELDS[type(message)]
    try:
        fill(message, getattr(envelope, field))
        return envelope.SerializeToString()
    except (ValueError, TypeError) as error:
        # The error's text would repeat the value, which may be the caller's data.
        problem = type(error).__name__
        raise UnencodableMessageError(type(message).__name__, problem) from None


def decode(data: bytes) -> Message | None:
    """Return the message in an envelope; None when it is empty or of a kind not known here.

    Fields that are not known here are passed over, an enum's unknown number reads as empty.

    Raises:
        MalformedMessageError: The bytes are no message.
    """
    try:
        envelope = WorkerSchedulerMessage.FromString(data)
    except DecodeError as error:
        raise MalformedMessageError(len(data)) from error
    kind = envelope.WhichOneof("msg")
    return None if kind is None else READERS[kind](getattr(envelope, kind))
