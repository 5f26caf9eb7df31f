"""From the bytes of a caller to a payload, and from a result back to bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import InputTooLargeError, OutputTooLargeError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine.invocation import Format, Invocation

__all__ = ["Message", "decoder", "encode", "read_message"]

_JSON_ENCODER = msgspec.json.Encoder()
_MSGPACK_ENCODER = msgspec.msgpack.Encoder()
_JSON_TABLE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MSGPACK_TABLE = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_ENVELOPE = "_models"
_ENVELOPE_BYTES = _ENVELOPE.encode()
_BACKSLASH = ord("\\")
# Any letter of the name, written as JSON also allows.
_ESCAPED_ENVELOPE = re.compile(rb"\\u00(?:5[fF]|6[45cdfCDF]|73)")
_PLACE = re.compile(r" - at `(\$[^`]*)`")


class Message(msgspec.Struct, gc=False):
    """A payload's bytes, with the `_models` envelope taken out."""

    data: bytes
    is_json: bool
    envelope: Any = None
    """As decoded, unchecked; None when there is none."""

    def table(self) -> dict[str, Any]:
        """Return the payload as plain values; empty when it is no object.

        Raises:
            ValidationError: It holds something beyond its type that cannot be decoded.
        """
        decode = msgspec.json.decode if self.is_json else msgspec.msgpack.decode
        fields = _decoded(decode, self.data)
        return fields if isinstance(fields, dict) else {}


def read_message(invocation: Invocation, max_bytes: int) -> Message:
    """Return the payload as bytes; objects are encoded first, so that all are checked alike.

    Raises:
        InputTooLargeError: It has more than `max_bytes` (0 allows any size).
        ValidationError: It is an object that cannot be encoded.
    """
    payload = invocation.payload
    is_json = invocation.payload_format == "json"
    if isinstance(payload, bytes):
        data = payload
    else:
        data, is_json = _encode_object(payload), False
    if 0 < max_bytes < len(data):
        raise InputTooLargeError(size_bytes=len(data), max_bytes=max_bytes, source="payload")
    envelope = None
    # A look for a few bytes is all that most calls pay for the envelope; `find` rather than `in`,
    # which for bytes first raises and catches a TypeError.
    if data.find(_ENVELOPE_BYTES) >= 0 or (
        is_json and _BACKSLASH in data and _ESCAPED_ENVELOPE.search(data) is not None
    ):
        data, envelope = _split(data, is_json)
    if invocation.overrides is not None and (envelope is None or isinstance(envelope, Mapping)):
        envelope = {**(envelope or {}), **invocation.overrides}
    return Message(data, is_json, envelope)


def _encode_object(payload: Any) -> bytes:
    try:
        return _MSGPACK_ENCODER.encode(dict(payload) if isinstance(payload, Mapping) else payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValidationError(f"the payload {payload!r:.120} cannot be sent: {error}") from error


def _split(data: bytes, is_json: bool) -> tuple[bytes, Any]:
    decode_table = (_JSON_TABLE if is_json else _MSGPACK_TABLE).decode
    try:
        fields = decode_table(data)
    except msgspec.ValidationError:
        return data, None  # no object: the payload's own decoder says how
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(error) from error  # the payload's own decoder might overlook it
    raw = fields.pop(_ENVELOPE, None)
    if raw is None:
        return data, None
    envelope = _decoded(msgspec.json.decode if is_json else msgspec.msgpack.decode, raw, _ENVELOPE)
    return (_JSON_ENCODER if is_json else _MSGPACK_ENCODER).encode(fields), envelope


def _decoded(decode: Callable[[Any], Any], data: Any, field: str = "") -> Any:
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(error, field) from error


def _refused(error: Exception, field: str = "") -> ValidationError:
    """Return what is told about bytes that cannot be decoded, with the place of the mistake."""
    if isinstance(error, RecursionError):
        return ValidationError(f"the {field or 'payload'} is nested too deeply")
    place = _PLACE.search(str(error))
    if field:
        return ValidationError(f"{field}: {_PLACE.sub('', str(error))}", path=f"$.{field}")
    return ValidationError(str(error), path=place[1] if place else "")


def decoder(payload_type: Any) -> Callable[[Message], Any]:
    """Return a function that decodes one type strictly, from either format.

    It raises `ValidationError`, with the JSON path of the mistake.
    """
    decode_json = msgspec.json.Decoder(payload_type).decode
    decode_msgpack = msgspec.msgpack.Decoder(payload_type).decode

    def decode(message: Message) -> Any:
        # Not through `_decoded`: this is on every call's way.
        try:
            return (decode_json if message.is_json else decode_msgpack)(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _refused(error) from error

    return decode


def encode(value: Any, result_format: Format, max_bytes: int) -> bytes:
    """Encode a result or an item, in a format that is not `object`.

    Raises:
        OutputTooLargeError: It has more than `max_bytes` (0 allows any size).
        TypeError: It holds something the format has no word for.
    """
    try:
        data = (_JSON_ENCODER if result_format == "json" else _MSGPACK_ENCODER).encode(value)
    except (TypeError, ValueError) as error:  # such as text that is no Unicode
        # No ValueError, which would say something about the payload.
        remedy = "write `await` before its call" if "coroutine" in str(error) else "convert it"
        raise TypeError(f"what the function produced cannot be sent: {error}: {remedy}") from error
    if 0 < max_bytes < len(data):
        raise OutputTooLargeError(size_bytes=len(data), max_bytes=max_bytes)
    return data
