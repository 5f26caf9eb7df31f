"""Names of environments, and the interpreters they stand for on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.failures import UsageError
from gen_worker.names import slugify_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_ENVIRONMENT", "environment_name", "interpreter_of", "project_interpreter"]

DEFAULT_ENVIRONMENT = "default"
"""Wherever nothing else is said: the interpreter that runs `gen-worker`."""
_CHECK_S = 60.0


def project_interpreter(root: str) -> str:
    """Return what runs a project: its own `.venv` if gen-worker is in there, else what runs us."""
    own = os.path.join(root, ".venv", "bin", "python")
    if not os.access(own, os.X_OK) or _is_same(own, sys.executable):
        return sys.executable
    words = [own, "-c", "import gen_worker.entrypoint, gen_worker.discovery"]
    try:
        done = subprocess.run(
            words, cwd="/", capture_output=True, timeout=_CHECK_S, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        done = 1
    if done:
        print(
            f"gen-worker: {own} has no gen-worker-runtime: the project runs with {sys.executable}",
            file=sys.stderr,
            flush=True,
        )
        return sys.executable
    return own


def _is_same(one: str, other: str) -> bool:
    """Whether two paths are one interpreter with one set of packages."""
    # Not the files themselves: the pythons of two environments are links to the same one.
    return os.path.realpath(os.path.dirname(one)) == os.path.realpath(os.path.dirname(other))


def environment_name(interpreter: str, endpoint: str, known: Mapping[str, str]) -> str:
    """Return the name for an interpreter: the one it has, the endpoint's, or a new one."""
    if _is_same(interpreter, sys.executable):
        return DEFAULT_ENVIRONMENT
    for name, path in known.items():
        if path == interpreter:
            return name
    wanted = slugify_name(endpoint) or "project"
    name, number = wanted, 1
    while name == DEFAULT_ENVIRONMENT or known.get(name, interpreter) != interpreter:
        number += 1
        name = f"{wanted}-{number}"
    return name


def interpreter_of(name: str, known: Mapping[str, str], file: str) -> str:
    """Return what a release's workers are run by.

    Args:
        name: Of its environment.
        known: From `environments.json`.
        file: That file's path.

    Raises:
        UsageError: The environment is not on this machine.
    """
    path = known.get(name) or (sys.executable if name == DEFAULT_ENVIRONMENT else "")
    if path and os.access(path, os.X_OK):
        return path
    problem = f"its interpreter {path!r} is gone" if path else "no interpreter is known for it"
    raise UsageError(
        f"environment {name!r}: {problem}; name one in {file}, as in "
        f'{{"{name}": "/path/to/python"}}, or deploy again with --python'
    )
