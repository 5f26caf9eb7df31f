"""What `gen-worker up` costs: from the command to marco-polo's first answer, and resident memory.

A start is that of a user: an empty data folder, then a call that is repeated until it is answered.
Of two in a row the faster counts: what else runs here only ever adds.
The second start is on the folder that the first has left. Memory is that of all processes once the
hub answers, too, which nobody waits for: what each has resident, added up, and the same with pages
that several share divided among them. The peer is a bare server, one process that does nothing.

    python bench/up.py [first] [again] [--save]
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

from harness import Row, paired, save, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
MARCO_POLO = os.path.join(os.path.dirname(HERE), "examples", "marco-polo")
PEER = "bench/peers/http_bare.py"
LIMIT_S = 60.0
LOOK_S = 0.005
PER_BLOCK = 2
MIB = 1 << 20


class Start(NamedTuple):
    """One start, in seconds and MiB."""

    first_answer: float
    resident: float
    proportional: float


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def call(port: int, path: str, body: bytes) -> bytes | None:
    """Return what a call is answered; None while it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except OSError:
            return None
        return text if answer.status == 200 else None


def family(pid: int) -> Iterator[int]:
    """Give a process and all that it has started."""
    yield pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        for child in file.read().split():
            yield from family(int(child))


def memory(pid: int) -> tuple[float, float]:
    """Return resident memory of a process, and its share of it, in MiB."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                sizes[name] = int(rest.split()[0]) * 1024 / MIB
    return sizes["Rss"], sizes["Pss"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(words: list[str], port: int, path: str, expected: bytes) -> Start:
    """Start a server, call it until it answers, and stop it."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        while (answer := call(port, path, b'{"text":"marco"}')) is None:
            if time.perf_counter() - begin > LIMIT_S or process.poll() is not None:
                raise SystemExit(f"{' '.join(words)} did not answer")
            time.sleep(LOOK_S)
        first_answer = time.perf_counter() - begin
        assert expected in answer, answer
        if "up" in words:
            hub = int(json.loads(process.stdout.readline())["hub"].rpartition(":")[2])
            wait_until(lambda: listens(hub), f"on port {hub}", process)
        sizes = [memory(pid) for pid in family(process.pid)]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
        process.stdout.close()
    return Start(first_answer, sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes))


def platform(data: str) -> Start:
    port = free_port()
    words = ["up", MARCO_POLO, "--http", f"127.0.0.1:{port}", "--data", data]
    path = "/v1/request/marco-polo/marco-polo"
    return start(["-m", "gen_worker.cli", *words], port, path, b"polo")


def bare() -> Start:
    port = free_port()
    return start([os.path.join(HERE, "peers/http_bare.py"), str(port)], port, "/echo", b"marco")


class Starts:
    """Starts platforms in folders of their own, and keeps what each has taken."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.ours: list[Start] = []
        self.peers: list[Start] = []

    def first(self) -> float:
        return self._fastest(self.ours, lambda: platform(tempfile.mkdtemp(dir=self.folder)))

    def again(self) -> float:
        return self._fastest(self.ours, lambda: platform(os.path.join(self.folder, "kept")))

    def peer(self) -> float:
        return self._fastest(self.peers, bare)

    def _fastest(self, kept: list[Start], once: Callable[[], Start]) -> float:
        block = [once() for _ in range(PER_BLOCK)]
        kept += block
        return min(one.first_answer for one in block)

    def row(self, name: str, ours: Callable[[], float]) -> Row:
        return paired(
            name,
            ours,
            self.peer,
            unit="s",
            peer_source=PEER,
            goal="< 2 s",
            passes=lambda mine, _peer, _ratio: mine < 2,
        )

    def size(self, name: str, of: Callable[[Start], float], *, most: float | None = None) -> Row:
        """Return the row of what the platforms had resident that were started."""
        mine, theirs = ([of(one) for one in starts] for starts in (self.ours, self.peers))
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        ours, peer = statistics.median(mine), statistics.median(theirs)
        goal, met = ("", None) if most is None else (f"<= {most:g} MiB", ours <= most)
        return Row(name, "MiB", ours, peer, ratio, low, high, len(mine), PEER, goal, met)


def main() -> None:
    wanted = {"first", "again"} & set(sys.argv) or {"first", "again"}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-up-") as folder:
        starts = Starts(folder)
        if "first" in wanted:
            rows = [
                starts.row("up: from command to first answer", starts.first),
                starts.size(
                    "up: resident memory of all processes", lambda one: one.resident, most=200
                ),
                starts.size("up: the same, shared pages once", lambda one: one.proportional),
            ]
        if "again" in wanted:
            rows.append(starts.row("up again: from command to first answer", starts.again))
    save("up", rows)


if __name__ == "__main__":
    main()
