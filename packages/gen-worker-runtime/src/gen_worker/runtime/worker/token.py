"""The token a worker connects with, which may be replaced as long as it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.wire import WorkerEvent

__all__ = ["ROTATIONS", "ConnectionToken"]

ROTATIONS = ("worker.jwt.rotate", "worker_jwt.rotate")
"""Events of the orchestrator's that bring another one."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ConnectionToken:
    """The one that came last: where the first one was kept, or from the orchestrator."""

    def __init__(self, token: str, read: Callable[[], str] | None = None) -> None:
        """Begin with a token.

        Args:
            token: Empty for none.
            read: Reads it anew where it is kept; empty when that cannot be done now.
        """
        self._current = self._kept = token
        self._read = read

    def current(self) -> str:
        """Return what to connect with next; empty for nothing."""
        kept = self._read() if self._read is not None else ""
        if kept and kept != self._kept:
            self._current = self._kept = kept
        return self._current

    def rotate(self, event: WorkerEvent) -> None:
        """Take what the orchestrator sent, if it is a token."""
        try:
            payload = _decode(event.payload_json)
        except msgspec.DecodeError:
            return
        token = payload.get("worker_jwt") or payload.get("token")
        if isinstance(token, str) and token:
            self._current = token
