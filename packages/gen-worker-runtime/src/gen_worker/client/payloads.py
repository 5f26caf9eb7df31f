"""From what a caller passes to the bytes of a payload; paths in it stand for files to upload."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["body_of", "encode_payload", "paths_in", "payload_of"]


def payload_of(payload: Any, fields: Mapping[str, Any]) -> Any:
    """Return what to send: a payload, or the one that consists of these fields.

    Raises:
        TypeError: Both were given.
    """
    if payload is None:
        return fields
    if fields:
        names = ", ".join(fields)
        raise TypeError(f"give a payload or its fields, not both: there is also {names}")
    return payload


def paths_in(payload: Any) -> tuple[str, ...]:
    """Return the files that a payload names with a `Path`, each once, in their order.

    Raises:
        ValidationError: The payload cannot be JSON, or is none that a function takes.
    """
    found: dict[str, None] = {}

    def note(value: Any) -> Any:
        found[os.fspath(_path(value))] = None
        return None

    data = _encode(payload, note)
    if data[:1] not in (b"{", b"["):
        raise ValidationError(
            f"a payload is a Struct, a dataclass, a dict or a list, not {type(payload).__name__}"
        )
    return tuple(found)


def encode_payload(payload: Any, refs: Mapping[str, str]) -> bytes:
    """Return the JSON of a payload, with a reference to the upload for each path.

    Args:
        payload: As it was given to `paths_in`.
        refs: Of the uploads, by path.
    """
    return _encode(payload, lambda value: {"ref": refs[os.fspath(_path(value))]})


def _path(value: Any) -> PurePath:
    if isinstance(value, PurePath):
        return value
    raise TypeError(f"objects of type {type(value).__name__} are not supported")


def _encode(payload: Any, replace: Any) -> bytes:
    try:
        return msgspec.json.encode(payload, enc_hook=replace)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"the payload cannot be sent as JSON: {error}") from error


def body_of(
    payload: bytes,
    *,
    function: str = "",
    request_id: str = "",
    timeout_s: float | None = None,
    envelope: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the body of a call: an envelope around the payload.

    Args:
        payload: JSON of an object or a list.
        function: What to call, where the path does not say it.
        request_id: Empty lets the host choose.
        timeout_s: How long the call may take.
        envelope: Further keys of the envelope, as the host knows them.
    """
    keys: dict[str, Any] = dict(envelope or {})
    if function:
        keys["function"] = function
    if request_id:
        keys["request_id"] = request_id
    if timeout_s is not None:
        keys["timeout_ms"] = max(1, round(timeout_s * 1000))
    keys["payload"] = msgspec.Raw(payload)
    return _encode(keys, _path)
