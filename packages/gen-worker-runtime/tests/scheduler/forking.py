"""Processes to be killed, for the scripts of the chaos tests, which import this beside them."""

from __future__ import annotations

import os
import signal
import traceback
from typing import TYPE_CHECKING, Any

from gen_worker.runtime.loop import run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def forked(work: Callable[[int], Coroutine[Any, Any, None]]) -> tuple[int, int]:
    """Work in a process of its own, which writes to a pipe; return its id and the pipe."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            run(work(theirs))
        except BaseException:
            traceback.print_exc()
        os._exit(70)
    os.close(theirs)
    return pid, ours


def show(pipe: int, pid: int, kill_after: int | None) -> None:
    """Print what a process says; kill it after so many lines."""
    with open(pipe, "rb") as file:
        for number, line in enumerate(file):
            if number == kill_after:
                os.kill(pid, signal.SIGKILL)
            if line.endswith(b"\n"):
                print(line.decode(), end="")


def reap(pid: int) -> None:
    """Wait for a process that was killed; say so if it ended by itself."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != -signal.SIGKILL:
        print(f"a process ended by itself with {code}")
