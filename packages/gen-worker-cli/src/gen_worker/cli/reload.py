"""`gen-worker serve --reload`: the same server again whenever the project's files change.

The supervisor holds the listening socket and every server inherits it, so that a client connecting
in between waits instead of being refused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from gen_worker.runtime.ndjson.claim import Claim

__all__ = ["snapshot", "supervise"]

_POLL_S = 0.3
_SUFFIXES = (".py", ".toml", ".json", ".yaml", ".yml", ".txt")
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "dist", "build", "jobs"})


def supervise(args: argparse.Namespace) -> int:
    """Run servers one after the other until told to stop; return the last one's exit code."""
    from gen_worker.cli.serve import open_claim

    claim = open_claim(args)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        return _watch(_root(args), claim, stop)
    finally:
        claim.release()


def _watch(root: str, claim: Claim, stop: threading.Event) -> int:
    server, seen = _start(claim), snapshot(root)
    while not stop.wait(_POLL_S):
        now = snapshot(root)
        if now != seen:
            changed = sorted(set(now.items()) ^ set(seen.items()))
            name = os.path.relpath(changed[0][0], root)
            print(f"gen-worker serve: {name} changed, starting again", file=sys.stderr, flush=True)
            _stop(server)
            server, seen = _start(claim), now
        elif server.poll() == 0:
            return 0
    return _stop(server)


def _start(claim: Claim) -> subprocess.Popen[bytes]:
    descriptor = claim.listener.fileno()
    words = [word for word in sys.argv[1:] if word != "--reload"]
    command = [sys.executable, "-m", "gen_worker.cli", *words, f"--listen-fd={descriptor}"]
    return subprocess.Popen(command, pass_fds=[descriptor], start_new_session=True)


def _stop(server: subprocess.Popen[bytes]) -> int:
    if server.poll() is None:
        server.terminate()
    try:
        return server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _root(args: argparse.Namespace) -> str:
    return os.path.dirname(os.path.abspath(args.config)) if args.config else os.getcwd()


def snapshot(root: str) -> dict[str, int]:
    """Return the modification time (ns) of every source file below `root`."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name not in _SKIPPED]
        for name in names:
            if name.endswith(_SUFFIXES) and name[0] != ".":
                path = os.path.join(folder, name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except FileNotFoundError:
                    continue
    return found
