"""From a caller's JSON to what a worker is given: one MessagePack map, in which bytes are bytes."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.engine.payloads import Message

__all__ = ["Packer", "object_of"]

_MAP_HEADS = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_ENCODED = "base64"
_encode = msgspec.msgpack.Encoder().encode


def object_of(message: Message) -> dict[str, Any]:
    """Return a payload as plain values.

    Raises:
        ValidationError: It is no object, or cannot be decoded.
    """
    fields = message.table()
    head = message.data.lstrip()[:1] if message.is_json else message.data[:1]
    is_object = head == b"{" if message.is_json else bool(head) and head[0] in _MAP_HEADS
    if not is_object:
        raise ValidationError("the payload has to be an object", path="$")
    return fields


class Packer:
    """Packs the payloads of one function. JSON writes bytes as base64; MessagePack has bytes."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Look for bytes in the JSON Schema of payloads."""
        self._schema = schema
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._has_bytes = _ENCODED.encode() in msgspec.json.encode(schema)

    def pack(self, payload: Mapping[str, Any]) -> bytes:
        """Return what a worker is given.

        Raises:
            ValidationError: It has a number, or a depth, that MessagePack has no room for.
        """
        try:
            return _encode(self._bytes_in(payload, self._schema) if self._has_bytes else payload)
        except (OverflowError, ValueError, RecursionError) as error:
            raise ValidationError(f"the payload cannot be passed on: {error}", path="$") from error

    def _bytes_in(self, value: Any, schema: Any) -> Any:
        """Return a value with the bytes that its schema has in it; what does not fit stays."""
        for fitting in self._meanings(schema):
            if isinstance(value, str):
                if fitting.get("contentEncoding") == _ENCODED:
                    return _decoded(value)
                if fitting.get("type") == "string":
                    return value
            elif isinstance(value, dict) and fitting.get("type") == "object":
                named, others = fitting.get("properties", {}), fitting.get("additionalProperties")
                return {
                    name: self._bytes_in(item, named.get(name, others))
                    for name, item in value.items()
                }
            elif isinstance(value, list) and fitting.get("type") == "array":
                first, others = fitting.get("prefixItems", ()), fitting.get("items")
                return [
                    self._bytes_in(item, first[index] if index < len(first) else others)
                    for index, item in enumerate(value)
                ]
        return value

    def _meanings(self, schema: Any) -> list[Mapping[str, Any]]:
        if not isinstance(schema, dict):
            return []
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name:
            return self._meanings(self._definitions.get(name))
        parts = schema.get("anyOf") or schema.get("oneOf")
        if parts:
            return [meaning for part in parts for meaning in self._meanings(part)]
        return [schema]


def _decoded(text: str) -> bytes | str:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text  # the worker says what is wrong with it
