"""How long a command takes to start, beside the bare interpreter.

    python bench/startup.py [--save]

Every figure is the time of whole processes, bytecode compiled (into a folder of its own), in blocks
of three processes of each kind, of which the fastest counts: what else runs here only ever adds.
The processor time of `run` is there too, as it does not contain the waiting for a busy machine.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from harness import Row, paired, save

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
MARCO_POLO = os.path.join(os.path.dirname(HERE), "examples", "marco-polo")
SCRIPT = os.path.join(os.path.dirname(sys.executable), "gen-worker")
BARE = "bench/peers/bare.py"
PER_BLOCK = 3


class Starter:
    """Starts processes that share one folder of compiled bytecode."""

    def __init__(self, bytecode: str) -> None:
        self.environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def time_of(self, *command: str, cwd: str = HERE) -> Callable[[], float]:
        """Return a function that measures one block of `command`, in milliseconds."""

        def once() -> float:
            begin = time.perf_counter()
            subprocess.run(
                command, cwd=cwd, env=self.environment, stdout=subprocess.DEVNULL, check=True
            )
            return (time.perf_counter() - begin) * 1000

        return lambda: min(once() for _ in range(PER_BLOCK))

    def processor_time_of(self, *command: str, cwd: str = HERE) -> Callable[[], float]:
        """Return a function that measures user and system time of one block, in milliseconds."""

        def once() -> float:
            process = subprocess.Popen(
                command, cwd=cwd, env=self.environment, stdout=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, command
            return (used.ru_utime + used.ru_stime) * 1000

        return lambda: min(once() for _ in range(PER_BLOCK))

    def first_answer(self, folder: str) -> Callable[[], float]:
        """Return a function that measures a block of `serve`, until its first answer is read."""

        def once() -> float:
            path = os.path.join(folder, "s")
            begin = time.perf_counter()
            server = subprocess.Popen(
                [SCRIPT, "serve", "--no-stdin", "--socket", path],
                cwd=MARCO_POLO,
                env=self.environment,
                stderr=subprocess.DEVNULL,
            )
            ask(path)
            taken = (time.perf_counter() - begin) * 1000
            server.terminate()
            server.wait()
            return taken

        return lambda: min(once() for _ in range(PER_BLOCK))


def ask(path: str) -> None:
    """Send one request as soon as somebody listens, and read the answer."""
    frame = b'{"function":"marco_polo","payload":{"text":"marco"}}\n'
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
            except OSError:
                time.sleep(0.001)
                continue
            client.sendall(frame)
            assert b'"polo"' in client.recv(65536)
            return


def beyond(limit_ms: float) -> Callable[[float, float, float], bool]:
    return lambda ours, peer, _ratio: ours - peer <= limit_ms


def measure(starter: Starter, folder: str) -> list[Row]:
    python = sys.executable
    nothing = (python, os.path.join(HERE, "peers", "bare.py"))
    bare = starter.time_of(*nothing)

    def row(
        name: str,
        ours: Callable[[], float],
        goal_ms: int,
        stretch_ms: int,
        peer: Callable[[], float] = bare,
    ) -> Row:
        return paired(
            name,
            ours,
            peer,
            unit="ms",
            peer_source=BARE,
            goal=f"<= bare interpreter + {goal_ms} ms (stretch {stretch_ms})",
            passes=beyond(goal_ms),
        )

    return [
        paired(
            "import gen_worker",
            starter.time_of(python, "-c", "import gen_worker"),
            starter.time_of(python, os.path.join(HERE, "peers", "import_msgspec.py")),
            unit="ms",
            peer_source="bench/peers/import_msgspec.py",
            goal="<= import msgspec + 15 ms (stretch 8)",
            passes=beyond(15),
        ),
        row("gen-worker --help", starter.time_of(SCRIPT, "--help"), 80, 40),
        row(
            "gen-worker run (marco-polo)",
            starter.time_of(SCRIPT, "run", "marco", cwd=MARCO_POLO),
            105,
            80,
        ),
        row(
            "gen-worker run (marco-polo), processor time",
            starter.processor_time_of(SCRIPT, "run", "marco", cwd=MARCO_POLO),
            105,
            80,
            starter.processor_time_of(*nothing),
        ),
        row("gen-worker serve, first answer", starter.first_answer(folder), 250, 180),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save("startup", measure(Starter(os.path.join(folder, "bytecode")), folder))


if __name__ == "__main__":
    main()
