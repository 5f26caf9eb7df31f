"""Build a lock in a process of its own: it sees no GPU, may crash or hang, and prints to stderr.

What the process finds travels through a file, line by line, so that even after a crash it is
known which module was being imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.discovery.walk import DiscoveryError
from gen_worker.problems import Problem

if TYPE_CHECKING:
    from gen_worker.project import Project

__all__ = ["DEFAULT_TIMEOUT_S", "BuiltLock", "Report", "build_lock"]

DEFAULT_TIMEOUT_S = 120.0
"""Generous: importing torch and diffusers from a cold disk takes about a minute."""

# Every runtime that could hand out a GPU; an empty list means none.
_NO_GPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "NVIDIA_VISIBLE_DEVICES": "void",
}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One line from the other process."""

    importing: str = ""
    """The module whose import begins now."""
    table: dict[str, Any] | None = None
    """The lock; the last line has it."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class BuiltLock(NamedTuple):
    """A lock, and the broken modules it was built without."""

    table: dict[str, Any]
    warnings: tuple[Problem, ...]


def build_lock(
    project: Project, *, skip_broken: bool = False, timeout_s: float = DEFAULT_TIMEOUT_S
) -> BuiltLock:
    """Import a project in another process and return its lock.

    Blocks until that process ends. Whatever the author's modules print goes to stderr.

    Args:
        project: What to import.
        skip_broken: Turn submodules that cannot be imported into warnings.
        timeout_s: Seconds after which the process is killed.

    Raises:
        DiscoveryError: The project cannot be imported, or a function in it is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="gen-worker-") as folder:
        path = os.path.join(folder, "report")
        arguments = [project.file, path, *(["--skip-broken"] if skip_broken else [])]
        status = _run(project, arguments, timeout_s)
        reports = _read(path)
    last = reports[-1] if reports else Report()
    if last.table is not None:
        return BuiltLock(last.table, last.warnings)
    raise DiscoveryError(last.problems or [_crash(status, last.importing, timeout_s, project)])


def _run(project: Project, arguments: list[str], timeout_s: float) -> int | None:
    """Return the exit status; None when time ran out."""
    # -P: a json.py beside endpoint.toml must not stand in for the standard library's.
    command = [sys.executable, "-P", "-m", "gen_worker.discovery.child", *arguments]
    process = subprocess.Popen(
        command,
        cwd=project.root,
        env={**os.environ, **_NO_GPU},
        stdin=subprocess.DEVNULL,
        stdout=2,
        # A group of its own: Ctrl-C reaches only us, and nothing it started survives it.
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _read(path: str) -> list[Report]:
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    # The last piece is empty, or a line that a crash cut short.
    return [msgspec.json.decode(line, type=Report) for line in lines[:-1]]


def _crash(status: int | None, module: str, timeout_s: float, project: Project) -> Problem:
    where = f"while it imported {module!r}" if module else "before it imported anything"
    if status is None:
        return Problem(
            code="import_timeout",
            message=f"the project was not imported within {timeout_s:g} s, it hung {where}",
            hint="move work out of module level, or raise --timeout",
            file=project.file,
        )
    how = f"with exit status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    return Problem(
        code="import_crashes",
        message=f"the process that imports the project ended {how} {where}",
        hint="import that module by itself to see why",
        file=project.file,
    )
