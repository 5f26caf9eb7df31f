"""`gen-worker serve --reload`: the same server again whenever the project's files change.

The supervisor holds the listening socket and every server inherits it, so that a client connecting
in between waits instead of being refused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gen_worker.runtime.ndjson.claim import Claim

__all__ = ["first_change", "snapshot", "supervise"]

_POLL_S = 0.3
# More than a server takes to give up on everything that does not end.
_STOP_TIMEOUT_S = 25.0
# Code and configuration. Not .json or .txt: an endpoint that writes one would start itself again.
_SUFFIXES = (".py", ".toml", ".yaml", ".yml")
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "site-packages", "dist", "build"})


def supervise(args: argparse.Namespace) -> int:
    """Run servers one after the other until told to stop; return the last one's exit code."""
    from gen_worker.cli.failures import UsageError
    from gen_worker.cli.serve import open_claim
    from gen_worker.runtime.ndjson.claim import ListenError

    stop = threading.Event()
    with _stopping(stop):
        try:
            claim = open_claim(args)
        except ListenError as error:
            raise UsageError(str(error)) from error
        try:
            return _Supervisor(claim, _root(args)).run(stop)
        finally:
            claim.release()


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at the first SIGINT or SIGTERM, and raise at the second."""

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, on_signal)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _Supervisor:
    """The socket, the files to watch, and the one server that runs."""

    def __init__(self, claim: Claim, root: str) -> None:
        self._claim = claim
        self._root = root
        self._token = "" if claim.address.is_private else _token()

    def run(self, stop: threading.Event) -> int:
        # A server whose supervisor is killed sees the end of this pipe, and stops.
        watched, held = os.pipe()
        try:
            return self._watch(stop, watched)
        finally:
            os.close(watched)
            os.close(held)

    def _watch(self, stop: threading.Event, parent: int) -> int:
        seen = snapshot(self._root)
        server = self._start(parent)
        has_told = False
        try:
            while not stop.wait(_POLL_S):
                now = snapshot(self._root)
                if now != seen:
                    _say(f"{first_change(seen, now, self._root)} changed, starting again")
                    _stop(server)
                    seen, has_told = now, False
                    server = self._start(parent)
                elif server.poll() == 0:
                    return 0
                elif server.returncode and not has_told:
                    has_told = True
                    _say("waiting for a change")
            return _stop(server)
        finally:
            server.kill()
            server.wait()

    def _start(self, parent: int) -> subprocess.Popen[bytes]:
        descriptor = self._claim.listener.fileno()
        words = [word for word in sys.argv[1:] if word != "--reload"]
        inherited = [f"--listen-fd={descriptor}", f"--parent-fd={parent}"]
        token = {"GEN_WORKER_SERVE_TOKEN": self._token} if self._token else {}
        return subprocess.Popen(
            [sys.executable, "-m", "gen_worker.cli", *words, *inherited],
            pass_fds=[descriptor, parent],
            env={**os.environ, **token},
            start_new_session=True,  # Ctrl-C at a terminal is ours to pass on
        )


def _token() -> str:
    """Return one token for all servers, so that clients survive a reload."""
    import secrets

    from gen_worker.runtime.settings import serve_token

    return serve_token() or secrets.token_urlsafe(24)


def _stop(server: subprocess.Popen[bytes]) -> int:
    if server.poll() is None:
        server.terminate()
    try:
        return server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _root(args: argparse.Namespace) -> str:
    return os.path.dirname(os.path.abspath(args.config)) if args.config else os.getcwd()


def first_change(before: dict[str, int], now: dict[str, int], root: str) -> str:
    """Return a file that differs between two snapshots, relative to `root`."""
    changed = {path for path, _ in set(before.items()) ^ set(now.items())}
    return os.path.relpath(min(changed), root)


def snapshot(root: str) -> dict[str, int]:
    """Return the modification time (ns) of every source file below `root`."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name not in _SKIPPED]
        for name in names:
            if name.endswith(_SUFFIXES) and name[0] != ".":
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):  # gone in the meantime
                    found[path] = os.stat(path).st_mtime_ns
    return found


def _say(text: str) -> None:
    print(f"gen-worker serve: {text}", file=sys.stderr, flush=True)
