"""The place of a mistake in a payload, in the one sentence that the wire has for a failure.

The sentence of a value that cannot be decoded ends with its place; other sentences are given theirs
on the way. Whoever knows nothing of that shows it to people as it is.
"""

from __future__ import annotations

import re

__all__ = ["split_place", "with_place"]

_MAX_CHARS = 500
_MAX_PLACE_CHARS = 200
_DECODED = re.compile(r" - at `(\$[^`]*)`$")
_ADDED = re.compile(r" \(at `(\$[^`]*)`\)$")


def with_place(message: str, path: str) -> str:
    """Return a message that says where the mistake is, of no more than 500 characters.

    Args:
        message: What is wrong.
        path: JSON path; one that is empty, or could not be found again, is left out.
    """
    if not path or len(path) > _MAX_PLACE_CHARS or split_place(message)[1] == path:
        return message
    end = f" (at `{path}`)"
    said = message[: _MAX_CHARS - len(end)] + end
    return said if split_place(said)[1] == path else message


def split_place(message: str) -> tuple[str, str]:
    """Return a message without what `with_place` has added, and the place; empty without one."""
    added = _ADDED.search(message)
    if added is not None:
        return message[: added.start()], added[1]
    decoded = _DECODED.search(message)
    return message, decoded[1] if decoded is not None else ""
