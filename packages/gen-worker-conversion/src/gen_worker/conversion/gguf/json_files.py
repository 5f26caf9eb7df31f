"""The JSON files of a model."""

from __future__ import annotations

import json
import os
from typing import Any

from gen_worker.conversion.gguf.errors import GgufSourceError

__all__ = ["read_json", "unreadable"]

_MAX_BYTES = 128 << 20


def read_json(path: str, code: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        GgufSourceError: It has none; with this code.
    """
    try:
        with open(path, "rb") as file:
            is_sensible = os.fstat(file.fileno()).st_size <= _MAX_BYTES
            found = json.loads(file.read()) if is_sensible else None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, code, str(error)) from error
    if not isinstance(found, dict):
        raise unreadable(path, code, "it is no JSON object of a sensible size")
    return found


def unreadable(path: str, code: str, why: str) -> GgufSourceError:
    """Return the error of a file or directory that is damaged."""
    return GgufSourceError(f"{path!r} cannot be read: {why}; fetch it again", code=code, file=path)
