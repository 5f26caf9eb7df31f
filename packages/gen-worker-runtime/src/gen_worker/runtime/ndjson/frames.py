"""The frames of protocol version 1: bytes to values and back.

Keys of the first version never change; later ones are optional and announced by capability tokens
(`keep_alive`, `events`, `detach`, `traceback`).

Answers are put together from bytes: the engine has encoded the values already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from gen_worker.events import Delta, Result, context_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.errors import Failure
    from gen_worker.events import Event

__all__ = [
    "ErrorKind",
    "Frame",
    "answer_line",
    "canceled_line",
    "decode_frame",
    "detached_line",
    "done_line",
    "error_kind",
    "error_line",
    "event_items",
    "event_lines",
    "result_line",
    "stopping_line",
    "usage_line",
]

ErrorKind = Literal[
    "usage", "not_found", "model_resolution", "canceled", "user_exception", "overloaded", "auth"
]

# Thirty years: beyond that the system's clocks cannot wait.
_MAX_TIMEOUT_MS = 10**12
_MAX_SHOWN_CHARS = 2000


class Target(msgspec.Struct, frozen=True):
    """Names a request of any connection."""

    request_id: str


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What a client sends: a request (`function`), or word about one (`cancel`, `detach`)."""

    function: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    request_id: str | None = None
    stream: bool = False
    cancel: Target | None = None
    detach: Target | None = None
    """The request goes on when its client leaves (token `detach`)."""
    keep_alive: bool = False
    """Keep the connection open for more frames (token `keep_alive`)."""
    events: bool = False
    """Also send what the handler logs, reports and emits (token `events`)."""
    traceback: bool = False
    """Send the traceback of what the author's code raised (token `traceback`)."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIMEOUT_MS)] | None = None
    token: str = ""
    """Needed where the server listens beyond this machine."""


_decode = msgspec.json.Decoder(Frame).decode
_encode = msgspec.json.Encoder(enc_hook=str).encode


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
    if not frame.function and frame.cancel is None and frame.detach is None:
        raise ValueError("bad frame: give `function` to call, or `cancel`")
    return frame


class _Done(msgspec.Struct, gc=False):
    ok: bool
    done: bool
    request_id: str | msgspec.UnsetType


class _Acknowledgement(msgspec.Struct, gc=False, omit_defaults=True):
    ok: bool
    canceled: bool | msgspec.UnsetType = msgspec.UNSET
    detached: bool | msgspec.UnsetType = msgspec.UNSET
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class _ErrorBody(msgspec.Struct, gc=False, omit_defaults=True):
    kind: ErrorKind
    message: str
    error_type: str = ""
    retryable: bool = False
    code: str = ""
    path: str = ""
    exit_code: int = 0
    traceback: str = ""


class _Error(msgspec.Struct, gc=False):
    ok: bool
    error: _ErrorBody
    request_id: str | msgspec.UnsetType = msgspec.UNSET


def _echo(request_id: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if request_id is None else request_id


# -- values ----------------------------------------------------------------------------------------

_YIELD = b'{"event":"yield","value":'
_RESULT = b'{"event":"result","value":'
_CONTEXT = b'{"event":"context","value":'
_ANSWER = b'{"ok":true,"events":['
_ONE_RESULT = _ANSWER + _RESULT
_ONE_RESULT_END = b"}]}\n"
_LINE_END = 10


def _tail(request_id: str | None) -> bytes:
    return b"}" if request_id is None else b',"request_id":%b}' % _encode(request_id)


def event_lines(batch: Sequence[Event], request_id: str | None) -> bytes:
    """Return what a streamed answer shows of a batch, a line each."""
    return _joined(batch, _tail(request_id) + b"\n")


def event_items(batch: Sequence[Event], request_id: str | None) -> bytes:
    """Return what a whole answer shows of a batch, each followed by a comma."""
    return _joined(batch, _tail(request_id) + b",")


def _joined(batch: Sequence[Event], tail: bytes) -> bytes:
    parts: list[bytes | msgspec.Raw] = []
    for event in batch:
        if isinstance(event, Delta):
            parts += (_YIELD, event.value, tail)
        elif isinstance(event, Result):
            parts += (_RESULT, event.value, tail)
        elif (record := context_record(event)) is not None:
            parts += (_CONTEXT, _encode_record(record), tail)
    joined = b"".join(parts)
    count = len(parts) // 3 if tail[-1] == _LINE_END else 0
    if joined.count(b"\n") != count:
        # An author's own `msgspec.Raw` may hold line breaks, which would end the frame.
        parts[1::3] = [msgspec.json.format(bytes(value), indent=-1) for value in parts[1::3]]
        joined = b"".join(parts)
    return joined


def _encode_record(record: dict[str, Any]) -> bytes:
    try:
        return _encode(record)
    except (TypeError, ValueError, RecursionError):  # what JSON cannot say, as Python shows it
        shown = {"text": ascii(record["payload"])[:_MAX_SHOWN_CHARS]}
        return _encode({**record, "type": _printable(record["type"]), "payload": shown})


def done_line(request_id: str | None) -> bytes:
    """The end of a streamed answer."""
    return _encode(_Done(True, True, _echo(request_id))) + b"\n"


def result_line(result: Result, request_id: str | None) -> bytes:
    """The whole answer of a function that is no stream."""
    if request_id is None:
        end = _ONE_RESULT_END
    else:
        tail = _tail(request_id)
        end = b"%b]%b\n" % (tail, tail)
    line = b"".join((_ONE_RESULT, result.value, end))
    if line.find(b"\n") != len(line) - 1:
        line = answer_line([event_items([result], request_id)], request_id)
    return line


def answer_line(items: Iterable[bytes], request_id: str | None) -> bytes:
    """The whole answer of a stream to a request that did not ask for one."""
    return b"%b%b]%b\n" % (_ANSWER, b"".join(items)[:-1], _tail(request_id))


# -- everything else -------------------------------------------------------------------------------


def canceled_line(request_id: str, *, canceled: bool) -> bytes:
    """The acknowledgement of a cancel frame."""
    return _encode(_Acknowledgement(True, canceled=canceled, request_id=request_id)) + b"\n"


def detached_line(request_id: str, *, detached: bool) -> bytes:
    """The acknowledgement of a detach frame."""
    return _encode(_Acknowledgement(True, detached=detached, request_id=request_id)) + b"\n"


def error_line(failure: Failure, request_id: str | None, *, with_traceback: bool = False) -> bytes:
    """A failed call."""
    body = _ErrorBody(
        kind=error_kind(failure),
        message=_printable(failure.message),
        error_type=failure.error_type,
        retryable=failure.retryable,
        code=_printable(failure.code),
        path=_printable(failure.path),
        exit_code=failure.exit_code,
        traceback=_printable(failure.detail) if with_traceback else "",
    )
    return _encode(_Error(False, body, _echo(request_id))) + b"\n"


def _printable(text: str) -> str:
    """Return a text that is UTF-8; a file's name in a message need not be."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def usage_line(message: str, request_id: str | None = None, kind: ErrorKind = "usage") -> bytes:
    """A frame that never became a call."""
    return _encode(_Error(False, _ErrorBody(kind, message), _echo(request_id))) + b"\n"


def stopping_line(request_id: str | None) -> bytes:
    """A request that came too late."""
    body = _ErrorBody("canceled", "the server is stopping", "retryable", retryable=True)
    return _encode(_Error(False, body, _echo(request_id))) + b"\n"


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
    is_usage = failure.exit_code == 2 or failure.error_type == "duplicate_request_id"
    return "usage" if is_usage else "user_exception"
