"""What a function produced, as the wire carries it: one result, or the items of a stream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import OutputTooLargeError
from gen_worker.runtime.engine.deltas import TEXT_FIELDS
from gen_worker.runtime.wire.reports import TokenDelta
from gen_worker.runtime.wire.streams import MAX_OUTPUT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.events import Result
    from gen_worker.runtime.wire.reports import StreamDone, StreamError
    from gen_worker.spec import EndpointKind

__all__ = ["DEFAULT_ITEM_ID", "DeltaForm", "merge_deltas", "output_payload", "success_payload"]

DEFAULT_ITEM_ID = "item-0"

_EMPTY_MAP = b"\x80"
_may_be_foreign = re.compile(rb"[\xc4-\xc9\xd4-\xd8]").search
"""Finds the heads of MessagePack's binary and extension types, or what only looks like them."""
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder(order="sorted").encode
_from_json = msgspec.json.Decoder(dict[str, Any]).decode


def success_payload(result: Result, kind: EndpointKind) -> bytes:
    """Return the `output_payload` of a call that succeeded.

    Args:
        result: Its value as `output_payload` takes it.
        kind: Of the function. What jobs produce is published, so their payload is an empty map.
    """
    if result.is_streamed:
        return b""
    return output_payload(result.value) if kind == "inference" else _EMPTY_MAP


def output_payload(value: Any) -> bytes:
    """Return a result as MessagePack of plain values: bytes are base64 text, times ISO text.

    Args:
        value: A struct, a mapping, or the MessagePack of one as a `msgspec.Raw`.

    Raises:
        TypeError: It holds something MessagePack has no word for.
    """
    if isinstance(value, msgspec.Raw):
        data = bytes(value)
        if _may_be_foreign(data) is None:
            return data
        value = _from_msgpack(data)
    return _to_msgpack(msgspec.to_builtins(value))


class DeltaForm:
    """How the items of one function are written."""

    __slots__ = ("_defaults", "_function")

    def __init__(self, function: str, item_type: Any = None) -> None:
        """Learn what an item says when it says nothing.

        Args:
            function: Its slug.
            item_type: The struct it yields. Of an undeclared one, or of a union, only items
                without any other field than their text can be merged.
        """
        self._function = function
        self._defaults = _encoded_defaults(item_type)

    def delta(self, value: Any, *, request_id: str, timestamp_unix_ms: int = 0) -> TokenDelta:
        """Return one item as a message; its sequence is 0 until it is written.

        Args:
            value: A struct, a mapping, or the MessagePack of one as a `msgspec.Raw`.
            request_id: Whose it is.
            timestamp_unix_ms: When it was yielded.

        Raises:
            TypeError: It holds something JSON has no word for.
            OutputTooLargeError: Its audio is longer than one message.
        """
        item = _plain(value)
        fields: dict[str, Any] = item if isinstance(item, dict) else {}
        chunk, codec = _taken(fields, "audio_chunk", bytes), _taken(fields, "audio_codec", str)
        if chunk and len(chunk) > MAX_OUTPUT_BYTES:
            raise OutputTooLargeError(size_bytes=len(chunk), max_bytes=MAX_OUTPUT_BYTES)
        text_field = next((name for name in TEXT_FIELDS if _is_text(fields.get(name))), "")
        item_id: Any = fields.get("item_id")
        return TokenDelta(
            request_id=request_id,
            item_id=item_id if _is_text(item_id) else DEFAULT_ITEM_ID,
            function=self._function,
            sequence=0,
            timestamp_unix_ms=timestamp_unix_ms,
            delta_text=fields[text_field] if text_field else "",
            payload_json=_compact(item),
            audio_chunk=chunk or b"",
            audio_codec=codec or "",
            text_field="" if chunk or codec or self._says_more(fields, text_field) else text_field,
        )

    def _says_more(self, fields: Mapping[str, Any], than: str) -> bool:
        """Tell whether any field besides this one is not what it would be by itself."""
        for name, value in fields.items():
            if name not in (than, "item_id"):
                default = self._defaults.get(name, msgspec.NODEFAULT)
                if type(value) is not type(default) or value != default:
                    return True
        return False


def merge_deltas(
    waiting: Iterable[TokenDelta | StreamDone | StreamError], max_bytes: int
) -> tuple[TokenDelta, int]:
    """Join the plain text at the head of what waits of one request.

    The text is joined in `delta_text` and in its own field, everything else is the first delta's.

    Args:
        waiting: In order; begins with a delta.
        max_bytes: Of the joined `payload_json`.

    Returns:
        The delta to write, and how many of `waiting` are in it; at least 1.
    """
    run: list[TokenDelta] = []
    size_bytes = 0
    for message in waiting:
        if run and not _continues(message, run[0]):
            break
        assert isinstance(message, TokenDelta), "a stream's end waits behind its last delta"
        size_bytes += len(message.payload_json)
        if run and size_bytes > max_bytes:
            break
        run.append(message)
    first = run[0]
    if len(run) == 1:
        return first, 1
    text = "".join([delta.delta_text for delta in run])
    payload = _to_json({**_from_json(first.payload_json), first.text_field: text})
    return msgspec.structs.replace(first, delta_text=text, payload_json=payload), len(run)


def _continues(message: TokenDelta | StreamDone | StreamError, first: TokenDelta) -> bool:
    return (
        isinstance(message, TokenDelta)
        and message.text_field == first.text_field != ""
        and message.item_id == first.item_id
        and message.request_id == first.request_id
        and message.function == first.function
    )


def _plain(value: Any) -> Any:
    """Return an item as plain values, but for its bytes."""
    if isinstance(value, msgspec.Raw):
        return _from_msgpack(value)
    return msgspec.to_builtins(value, builtin_types=(bytes, bytearray))


def _compact(item: Any) -> bytes:
    """Return an item as JSON with sorted keys; keys that are numbers or the like become text."""
    try:
        return _to_json(item)
    except TypeError:
        return _to_json(msgspec.to_builtins(item, str_keys=True))


def _taken(fields: dict[str, Any], name: str, kind: type) -> Any:
    """Take a field out if it is what the wire has a place of its own for."""
    value = fields.get(name)
    if isinstance(value, bytearray):
        value = bytes(value)
    if not isinstance(value, kind):
        return None
    del fields[name]
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _encoded_defaults(item_type: Any) -> dict[str, Any]:
    """Return what is in an encoded item for each field nobody set."""
    if not (isinstance(item_type, type) and issubclass(item_type, msgspec.Struct)):
        return {}
    config = item_type.__struct_config__
    known = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(item_type):
        if field.default is not msgspec.NODEFAULT:
            known[field.encode_name] = _from_msgpack(_to_msgpack(field.default))
    return known
