"""Items of a stream, encoded: text that is too long is divided, all else that is too long fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import OutputTooLargeError
from gen_worker.runtime.engine.payloads import encode

if TYPE_CHECKING:
    from gen_worker.runtime.engine.invocation import Format

__all__ = ["TEXT_FIELDS", "encode_item"]

TEXT_FIELDS = ("delta_text", "delta", "token", "text", "content", "caption_delta")
"""Fields whose text a reader joins; the wire's `delta_text` is the first of them that has any."""


def encode_item(item: Any, result_format: Format, max_bytes: int) -> list[bytes]:
    """Encode one yielded item, as several when it is plain text that is too long.

    Plain text is a struct that says nothing but one text and, maybe, whose it is. Audio is not
    counted: a transport may send it beside the item.

    Args:
        item: What the author yielded.
        result_format: `json` or `msgpack`.
        max_bytes: Of each encoded item; 0 allows any size.

    Raises:
        OutputTooLargeError: It is longer, and no text.
        TypeError: It holds something the format has no word for.
    """
    data = encode(item, result_format, 0)
    if not 0 < max_bytes < len(data):
        return [data]
    field = _text_field(item)
    text = getattr(item, field) if field else ""
    if len(text) > 1:
        middle = len(text) // 2
        halves = (text[:middle], text[middle:])
        parts = [msgspec.structs.replace(item, **{field: half}) for half in halves]
        return [data for part in parts for data in encode_item(part, result_format, max_bytes)]
    size_bytes = _size_without_audio(item, data, result_format)
    if size_bytes > max_bytes:
        raise OutputTooLargeError(size_bytes=size_bytes, max_bytes=max_bytes)
    return [data]


def _text_field(item: Any) -> str:
    """Return the field that holds all an item says; empty when there is none."""
    if not isinstance(item, msgspec.Struct):
        return ""
    said = [
        field.name
        for field in msgspec.structs.fields(item)
        if field.name != "item_id" and getattr(item, field.name) != field.default
    ]
    is_text = len(said) == 1 and said[0] in TEXT_FIELDS
    return said[0] if is_text and isinstance(getattr(item, said[0]), str) else ""


def _size_without_audio(item: Any, data: bytes, result_format: Format) -> int:
    audio = getattr(item, "audio_chunk", None)
    if not isinstance(item, msgspec.Struct) or not isinstance(audio, (bytes, bytearray)):
        return len(data)
    return len(encode(msgspec.structs.replace(item, audio_chunk=b""), result_format, 0))
