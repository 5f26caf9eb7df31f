"""Conversions in processes of their own that are killed at one of their calls of the system."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS = ("open", "write", "replace", "unlink", "rmdir", "mkdir", "fsync", "sendfile")
"""Of `os`: those that a conversion changes a disk with, and opening for reading among them."""


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls an undisturbed run makes."""
    reader, writer = os.pipe()
    status = _in_a_process(lambda: os.write(writer, b"%d" % _counted(work)))
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        count = told.read()
    assert status == 0
    return int(count)


def kill_at(number: int, work: Callable[[], object]) -> bool:
    """Run work in a process that is killed before its call of this number; False when it ended."""

    def run() -> None:
        _counted(work, number)

    status = _in_a_process(run)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def _counted(work: Callable[[], object], last: int = 0) -> int:
    """Do work in this process, which ends with a kill before the call of number `last`."""
    count, lock = [0], threading.Lock()

    def watched(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            with lock:
                count[0] += 1
                is_last = count[0] == last
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    real = {name: getattr(os, name) for name in CALLS}
    for name, function in real.items():
        setattr(os, name, watched(function))
    work()
    for name, function in real.items():
        setattr(os, name, function)
    return count[0]


def _in_a_process(work: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; none of them holds a lock
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files_below(place: Path) -> dict[str, bytes]:
    """Return the content of every file, hidden ones too."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
