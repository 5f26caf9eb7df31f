"""The frames of protocol version 1: bytes to values and back.

Keys of the first version never change; later ones are optional and announced by capability tokens
(`keep_alive`, `events`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from gen_worker.errors import Failure

__all__ = [
    "ErrorKind",
    "Frame",
    "answer_line",
    "cancel_line",
    "decode_frame",
    "done_line",
    "error_kind",
    "error_line",
    "event_line",
    "usage_line",
]

ErrorKind = Literal[
    "usage", "not_found", "model_resolution", "canceled", "user_exception", "overloaded", "auth"
]


class CancelTarget(msgspec.Struct, frozen=True):
    """Names the request to cancel; it may belong to any connection."""

    request_id: str


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What a client sends: a request (`function`) or a cancel (`cancel`)."""

    function: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    request_id: str | None = None
    stream: bool = False
    cancel: CancelTarget | None = None
    keep_alive: bool = False
    """Keep the connection open for more frames (token `keep_alive`)."""
    events: bool = False
    """Also send what the handler logs, reports and emits (token `events`)."""
    timeout_ms: int | None = None
    token: str = ""
    """Needed where the server listens beyond this machine."""


_decode = msgspec.json.Decoder(Frame).decode


def decode_frame(line: bytes | bytearray | memoryview) -> Frame:
    """Read one line.

    Raises:
        ValueError: It is not a frame; the text says why.
    """
    try:
        frame = _decode(line)
    except msgspec.ValidationError as error:
        raise ValueError(f"bad frame: {error}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"the frame is not one JSON object: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the frame is not UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError("the frame is nested too deeply") from error
    if frame.cancel is None and not frame.function:
        raise ValueError("bad frame: give `function` to call, or `cancel`")
    return frame


class _Event(msgspec.Struct, omit_defaults=True, gc=False):
    event: str
    value: Any
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, gc=False):
    ok: bool
    events: list[_Event]
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class _Done(msgspec.Struct, gc=False):
    ok: bool
    done: bool
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class _Canceled(msgspec.Struct, gc=False):
    ok: bool
    canceled: bool
    request_id: str


class _ErrorBody(msgspec.Struct, gc=False, omit_defaults=True):
    kind: ErrorKind
    message: str
    error_type: str = ""
    retryable: bool = False
    code: str = ""
    path: str = ""
    exit_code: int = 0


class _Error(msgspec.Struct, gc=False):
    ok: bool
    error: _ErrorBody
    request_id: str | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _echo(request_id: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if request_id is None else request_id


def event_line(event: str, value: Any, request_id: str | None) -> bytes:
    """One value of a streamed answer."""
    return _encode(_Event(event, value, _echo(request_id))) + b"\n"


def done_line(request_id: str | None) -> bytes:
    """The end of a streamed answer."""
    return _encode(_Done(True, True, _echo(request_id))) + b"\n"


def answer_line(events: list[tuple[str, Any]], request_id: str | None) -> bytes:
    """The whole answer of a request that did not ask for a stream."""
    echo = _echo(request_id)
    return (
        _encode(_Answer(True, [_Event(name, value, echo) for name, value in events], echo)) + b"\n"
    )


def cancel_line(request_id: str, *, canceled: bool) -> bytes:
    """The acknowledgement of a cancel frame."""
    return _encode(_Canceled(True, canceled, request_id)) + b"\n"


def error_line(failure: Failure, request_id: str | None) -> bytes:
    """A failed call."""
    body = _ErrorBody(
        kind=error_kind(failure),
        message=failure.message,
        error_type=failure.error_type,
        retryable=failure.retryable,
        code=failure.code,
        path=failure.path,
        exit_code=failure.exit_code,
    )
    return _encode(_Error(False, body, _echo(request_id))) + b"\n"


def usage_line(message: str, request_id: str | None = None, kind: ErrorKind = "usage") -> bytes:
    """A frame that never became a call."""
    return _encode(_Error(False, _ErrorBody(kind, message), _echo(request_id))) + b"\n"


def error_kind(failure: Failure) -> ErrorKind:
    """Say a failure in the vocabulary of protocol version 1."""
    if failure.exception == "UnknownFunctionError":
        return "not_found"
    if failure.error_type == "canceled":
        return "canceled"
    if failure.exit_code == 3:
        return "model_resolution"
    if failure.error_type == "worker_overloaded":
        return "overloaded"
    return "usage" if failure.exit_code == 2 else "user_exception"
