"""What the first process that fails tells the others, and how they learn of it at once."""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

import msgspec

__all__ = ["Failure", "Failures"]

_LOOK_S = 0.2
"""Between two looks at the store; a run may have hundreds of processes that look."""
_NOTE_S = 2.0
"""How long a process waits to be told why another has ended; one that is killed tells nobody."""
_WAIT_S = 0.02
_FIRST = "first-failure"


class Failure(msgspec.Struct, frozen=True):
    """What the first process that failed has noted."""

    rank: int
    text: str


class Failures:
    """The first failure of a run, in the store at which its processes have met.

    A thread looks for it: whatever the others are waiting for, they know of it, and the process
    that has the store need not wait until each has asked.
    """

    def __init__(self, store: Any, rank: int) -> None:
        """Begin to look.

        Args:
            store: The one at which all have met.
            rank: Of this process.
        """
        self.first: Failure | None = None
        """Once somebody has failed; None while nobody has, or nobody could be told."""
        self._rank = rank
        self._notes = _notes_in(store)
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._look, args=(_notes_in(store.clone()),), name="gen-worker-failures"
        )
        self._thread.daemon = True
        self._thread.start()

    def note(self, error: BaseException) -> Failure:
        """Note that this process has failed, and return the first failure of all.

        Raises:
            RuntimeError: The store is gone, and nothing was known before.
        """
        if self.first is None:
            told = Failure(self._rank, f"{type(error).__name__}: {error}")
            body = msgspec.json.encode(told).decode()
            self.first = _read(self._notes.compare_set(_FIRST, "", body))
        return self.first

    def wait(self) -> None:
        """Give another process the time to say why it has ended."""
        until = time.monotonic() + _NOTE_S
        while self.first is None and time.monotonic() < until and self._thread.is_alive():
            time.sleep(_WAIT_S)

    def leave(self) -> None:
        """Say that this process needs the store no more.

        Raises:
            RuntimeError: The store is gone.
        """
        self._notes.set(_left(self._rank), "1")

    def have_left(self, ranks: range) -> bool:
        """Tell whether all of these processes need the store no more.

        Raises:
            RuntimeError: The store is gone.
        """
        return bool(self._notes.check([_left(rank) for rank in ranks]))

    def close(self) -> None:
        """End the looking."""
        self._is_over.set()
        self._thread.join()

    def _look(self, notes: Any) -> None:
        try:
            while not self._is_over.wait(_LOOK_S):
                if notes.check([_FIRST]):
                    self.first = _read(notes.get(_FIRST))
                    if self.first.rank != self._rank:
                        notes.set(_left(self._rank), "1")
                    return
        except RuntimeError:  # the store is gone, and the process that had it
            return


def _notes_in(store: Any) -> Any:
    return importlib.import_module("torch.distributed").PrefixStore("gen-worker/notes", store)


def _read(body: Any) -> Failure:
    return msgspec.json.decode(body, type=Failure)


def _left(rank: int) -> str:
    return f"left-{rank}"
