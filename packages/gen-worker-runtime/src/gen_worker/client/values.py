"""What a client hands out."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ENDINGS", "StreamEvent", "decoded"]


def decoded(data: bytes) -> Any:
    """Return what JSON says; None when it is none."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None


ENDINGS = frozenset(("result", "error"))
"""The events that are the last of a request."""


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a request, as `docs/http-api.md` lists them."""

    id: int
    """From 1 in each request; what `events(after=...)` continues from. 0 for `gap`."""
    name: str
    """`delta`, `progress`, `event`, `restarted`, `gap`, `result` or `error`."""
    raw: bytes
    """JSON: of a `delta` the item, of `result` and `error` an answer."""

    @property
    def data(self) -> Any:
        """The decoded JSON; None when the host sent something else."""
        return decoded(self.raw)

    @property
    def is_last(self) -> bool:
        return self.name in ENDINGS
