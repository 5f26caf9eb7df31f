"""One thread at a time per key; the next one looks for itself whether anything is left to do."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken

__all__ = ["Flights"]

_LOOK_S = 0.05


class Flights:
    """Turns of one process. A turn that fails leaves nothing behind."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, key: str, token: CancelToken | None = None) -> Iterator[None]:
        """Wait for the key's turn; canceling the token ends the wait."""
        with self._changed:
            while key in self._busy:
                if token is not None:
                    token.raise_if_canceled()
                self._changed.wait(None if token is None else _LOOK_S)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()
