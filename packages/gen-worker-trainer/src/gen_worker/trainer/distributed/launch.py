"""Starts the processes of a run on this machine, and ends them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["launch"]

_LOOK_S = 0.05
_GRACE_S = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of Linux."""


def launch(argv: Sequence[str], nproc: int, *, grace_s: float = _GRACE_S) -> int:
    """Run a command in several processes that train together; blocks until all have ended.

    SIGINT and SIGTERM go to each process once. When a process fails, the others have a time to
    end by themselves, then until they are killed once more as long to end in order. What the first
    process writes goes where this one's output goes; lines of the others are marked with their
    rank. They are stopped in order if this process dies, on Linux.

    Args:
        argv: The command, such as `[sys.executable, "-m", "gen_worker.cli", "train", path]`.
        nproc: How many processes, each with a GPU of its own if there are any.
        grace_s: Seconds.

    Returns:
        The exit code of the first process, or if that is 0 of the one that failed first; 128 and
        the number of the signal for one that was killed.

    Raises:
        ValueError: There is to be no process.
        OSError: The command cannot be run.
    """
    if nproc < 1:
        raise ValueError(f"a run has at least 1 process, not {nproc}")
    common = _common(nproc)
    with _Ranks(grace_s) as ranks, _heard(ranks.forward):
        for rank in range(nproc):
            ranks.start(argv, rank, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        ranks.wait()
    return ranks.exit_code


def _common(nproc: int) -> dict[str, str]:
    """Return what all processes are told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // nproc)  # each would take all of them
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@contextmanager
def _heard(forward: Callable[[int], None]) -> Iterator[None]:
    """Have signals forwarded; outside the main thread whoever runs it has its own way."""
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):
        for number in _SIGNALS:
            before[number] = signal.signal(number, lambda heard, _: forward(heard))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ranks:
    def __init__(self, grace_s: float) -> None:
        self.exit_code = 0
        self._grace_s = grace_s
        self._running: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._heard: list[int] = []
        self._first: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._running:  # left over only if this process itself fails
            one.kill()
            one.wait()
        for reader in self._readers:
            reader.join()

    def start(self, argv: Sequence[str], rank: int, environment: Mapping[str, str]) -> None:
        piped = None if rank == 0 else subprocess.PIPE
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=None if rank == 0 else subprocess.DEVNULL,
            stdout=piped,
            stderr=piped,
            process_group=0,  # or Ctrl-C would reach it twice
            preexec_fn=_stop_with_parent if sys.platform == "linux" else None,
        )
        self._running.append(process)
        self._first = self._first or process
        for pipe, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if pipe is not None:
                reader = threading.Thread(target=_repeat, args=(pipe, out, f"[rank {rank}] "))
                reader.start()
                self._readers.append(reader)
        for number in self._heard:
            process.send_signal(number)

    def forward(self, number: int) -> None:
        self._heard.append(number)
        for one in self._running:
            one.send_signal(number)

    def wait(self) -> None:
        """Wait for all; where one has failed, not without end."""
        due: float | None = None
        next_signal = signal.SIGTERM
        while self._running:
            for one in [one for one in self._running if one.poll() is not None]:
                self._running.remove(one)
                self._note(one)
                if one.returncode and due is None and not self._heard:
                    due = time.monotonic() + self._grace_s
            if due is not None and time.monotonic() >= due:
                self.forward(next_signal)
                next_signal = signal.SIGKILL
                due = time.monotonic() + self._grace_s
            if self._running:
                with suppress(subprocess.TimeoutExpired):
                    self._running[0].wait(_LOOK_S)

    def _note(self, ended: subprocess.Popen[bytes]) -> None:
        code = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
        if code and (not self.exit_code or ended is self._first):
            self.exit_code = code


def _stop_with_parent() -> None:
    """Have this process get SIGTERM when the one that started it dies, in whatever way."""
    import ctypes

    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _repeat(pipe: BinaryIO, out: Any, mark: str) -> None:
    with pipe:
        for line in pipe:
            out.write(mark + line.decode("utf-8", "replace"))
            out.flush()
