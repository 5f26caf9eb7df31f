"""One thread per process that touches what the process holds.

Processes on the same machine ask the kernel who lives; those on other machines see only how old a
file is.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.models.store.leases import Leases

__all__ = ["INTERVAL_S", "beat_for", "touch_all"]

INTERVAL_S = 60.0

_lock = threading.Lock()
_watched: weakref.WeakSet[Leases] = weakref.WeakSet()
_thread: threading.Thread | None = None


def beat_for(leases: Leases) -> None:
    """See to it that the files of `leases` are touched while there are any."""
    global _thread
    if leases in _watched and _thread is not None and _thread.is_alive():
        return
    with _lock:
        _watched.add(leases)
        if _thread is None or not _thread.is_alive():  # a fork leaves it behind
            _thread = threading.Thread(target=_beat, name="model-leases", daemon=True)
            _thread.start()


def _forget_parent() -> None:
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    for leases in list(_watched):
        leases.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def touch_all() -> None:
    """Touch every file held."""
    with _lock:
        watched = list(_watched)
    for leases in watched:
        for path in list(leases.files):
            try:
                os.utime(path)
            except OSError:
                continue  # given back meanwhile


def _beat() -> None:
    never = threading.Event()
    while not never.wait(INTERVAL_S):
        touch_all()
