"""Reads what another process appends to its events file, while it does."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EventFile"]

_LOOK_S = 0.1
_BLOCK_BYTES = 1 << 20


class EventFile:
    """Gives every event that is appended after it was made, in order, from a thread of its own."""

    def __init__(
        self, path: str | os.PathLike[str], take: Callable[[dict[str, Any]], object]
    ) -> None:
        """Begin behind what the file holds already.

        Args:
            path: There may be no such file yet.
            take: Given every event; lines that are none are passed over. It must not raise.
        """
        self._path = os.fspath(path)
        self._take = take
        self._offset = os.path.getsize(path) if os.path.exists(path) else 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="gen-worker-trainer-events")
        self._thread.start()

    def close(self) -> None:
        """Give what is left, and end the thread."""
        self._is_over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            self._read()
        self._read()

    def _read(self) -> None:
        try:
            file = open(self._path, "rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            while whole := _whole_lines(file.read(_BLOCK_BYTES)):
                self._offset += len(whole)
                file.seek(self._offset)
                for line in whole.splitlines():
                    self._give(line)

    def _give(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line)
        except msgspec.MsgspecError:  # an earlier attempt was killed there
            return
        if isinstance(event, dict):
            self._take(event)


def _whole_lines(block: bytes) -> bytes:
    return block[: block.rfind(b"\n") + 1]
