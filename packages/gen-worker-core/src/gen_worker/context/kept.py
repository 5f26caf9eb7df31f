"""Directories of jobs that another attempt finds again, until the job has ended for good.

A job's directory lies below `txform-persistent`. A file of its name below
`txform-persistent-in-use` is locked while an attempt runs, and says from when on nobody is going to
ask for the directory any more. Whoever comes along removes such directories: those of a call that
is never made again, too, when its process is gone.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

__all__ = ["KeptDirectories", "remove_ended"]

_FORGOTTEN_AFTER_S = 14 * 86_400.0
"""An attempt that was killed says nothing; after so long no other is going to come."""
_waiting: threading.Timer | None = None


class KeptDirectories:
    """Those of one job, held by one attempt. Blocking."""

    def __init__(self, name: str, *, is_repeated: bool = True) -> None:
        """Make the job's directory, or take over the one that is there.

        Args:
            name: Of the job, as a path can hold it.
            is_repeated: Another attempt may come, should this one be killed.

        Raises:
            PermissionError: Other users of this machine have taken its places.
        """
        remove_ended()
        self.path = os.path.join(_root(), name)
        self._note = os.path.join(_notes(), name)
        self._held = self._hold(b"" if is_repeated else b"0")
        self._close = weakref.finalize(self, os.close, self._held)  # should nobody leave
        os.makedirs(self.path, mode=0o700, exist_ok=True)

    def __repr__(self) -> str:
        return f"<KeptDirectories {self.path!r}>"

    def directory(self, name: str) -> Path:
        """Return one of them, made if need be."""
        path = Path(self.path, name)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def leave(self, over_in_s: float | None) -> None:
        """Let go of them.

        Args:
            over_in_s: After so long no further attempt comes; None: one may.
        """
        os.truncate(self._held, 0)
        if over_in_s is not None:
            os.write(self._held, b"%f" % (time.time() + over_in_s))
        self._close()
        if over_in_s == 0:
            _remove(self.path, self._note)
        elif over_in_s is not None:
            _remove_later(over_in_s)

    def _hold(self, over_at: bytes) -> int:
        while True:
            held = os.open(self._note, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            is_locked = _lock(held, is_shared=True)
            # Removed while we waited for it: the next one is another file.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held), os.stat(self._note)):
                    os.truncate(held, 0)
                    if is_locked:  # else nobody could tell that an attempt runs
                        os.write(held, over_at)
                    os.utime(self._note)
                    return held
            os.close(held)


def remove_ended() -> None:
    """Remove the directories of jobs that have ended for good."""
    root, notes = _root(), _notes()
    for name in os.listdir(notes):
        if _is_over(os.path.join(notes, name)):
            _remove(os.path.join(root, name), os.path.join(notes, name))


def _remove(path: str, note: str) -> None:
    """Remove a directory and its note, unless an attempt holds it."""
    with suppress(OSError), open(note, "r+b", buffering=0) as file:
        if _lock(file.fileno(), is_shared=False) is not False and _is_over(note):
            shutil.rmtree(path, ignore_errors=True)
            os.unlink(note)


def _is_over(note: str) -> bool:
    try:
        with open(note, "rb") as file:
            text = file.read(64)
            changed_at = os.fstat(file.fileno()).st_mtime
        over_at = float(text) if text else changed_at + _FORGOTTEN_AFTER_S
    except (OSError, ValueError):
        return False
    return time.time() >= over_at


def _remove_later(seconds: float) -> None:
    """Look again once the time has come, should this process live that long."""
    global _waiting
    if _waiting is not None and _waiting.is_alive():
        return
    _waiting = threading.Timer(seconds + 1.0, _remove_rest)
    _waiting.daemon = True
    _waiting.start()


def _remove_rest() -> None:
    global _waiting
    _waiting = None
    with suppress(OSError):
        remove_ended()


def _lock(descriptor: int, *, is_shared: bool) -> bool | None:
    """Lock a file until it is closed; False when it is locked already, None when none can be."""
    try:
        import fcntl

        how = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX | fcntl.LOCK_NB
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and some network file systems
        return None
    return True


def _root() -> str:
    return _own_directory(os.path.join(tempfile.gettempdir(), "txform-persistent"))


def _notes() -> str:
    return _own_directory(os.path.join(tempfile.gettempdir(), "txform-persistent-in-use"))


def _own_directory(path: str) -> str:
    """Make a directory of a name that everybody can guess, where everybody can write.

    Where another user of this machine was first, it is one with the own user's number.
    """
    user = os.getuid() if hasattr(os, "getuid") else None
    for place in (path, f"{path}-{user}"):
        with suppress(FileExistsError):
            os.makedirs(place, mode=0o700, exist_ok=True)
        facts = os.lstat(place)
        if stat.S_ISDIR(facts.st_mode) and user in (None, facts.st_uid):
            return place
    raise PermissionError(f"{path!r} belongs to somebody else: remove it, or set TMPDIR")
