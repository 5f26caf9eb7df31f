"""The JSON beside the rows of a dataset."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.dataset.schema import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        DatasetError: The file is not there, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DatasetError(f"{os.fspath(path)!r} is no JSON object", file=os.fspath(path))
    return found
