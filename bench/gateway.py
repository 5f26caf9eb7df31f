"""What 200 workers cost the scheduler's gateway: idle, and at 1,000 jobs per second.

The peer is the least server that gives jobs to workers over the same protocol. Both run in
processes of their own, each with 200 simulated workers in another.

    python bench/gateway.py [--save]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCKS, Row, paired, save
from peers.fan_out import FanOut
from peers.paced import run

from gen_worker.runtime.scheduler.gateway import Gateway
from gen_worker.runtime.wire import JobRequest, JobResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.paced import Site

    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.wire import Message, Registration

PEER = "bench/peers/fan_out.py"
WORKERS = 200
PER_S = 1_000
IDLE_S = 2.0
"""Of one block, in which a fifth of the workers say how they are."""
LOAD_S = 1.0
"""Of one block."""
PAYLOAD = b"\x81\xa4text\xabhello world"


class Bare:
    """The gateway, and behind it a handler that only passes answers on."""

    def __init__(self) -> None:
        self.gateway = Gateway("127.0.0.1:0", self)
        self.sessions: list[Session] = []
        self.waiting: dict[str, Callable[[], None]] = {}

    async def start(self) -> str:
        await self.gateway.start()
        return self.gateway.address

    async def stop(self) -> None:
        await self.gateway.stop()

    def connected(self) -> int:
        return min(len(self.sessions), self.gateway.statistics().streams // 3)

    def submit(self, number: int, answered: Callable[[], None]) -> None:
        request = JobRequest(request_id=f"job-{number}", function="echo", payload=PAYLOAD)
        self.waiting[request.request_id] = answered
        assert self.sessions[number % len(self.sessions)].send(request)

    # As the gateway's handler.

    def registered(self, session: Session, registration: Registration) -> None:
        self.sessions.append(session)

    def heartbeat(self, session: Session, registration: Registration) -> None:
        """Nothing follows from it."""

    def heard(self, session: Session, message: Message) -> None:
        if isinstance(message, JobResult):
            self.waiting.pop(message.request_id)()

    def lost(self, session: Session, reason: str) -> None:
        """Nothing follows from it."""


SITES: dict[str, Callable[[], Site]] = {"ours": Bare, "peer": FanOut}


class Served:
    """One server in its process. A context manager; the process ends with it."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} has ended")
        return json.loads(line)

    def ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self.answer()

    def idle(self) -> float:
        return float(self.ask("idle", IDLE_S)["cpu"])

    def memory(self) -> float:
        return float(self.ask("memory")["mib"])

    def load(self) -> Any:
        return self.ask("load", PER_S, LOAD_S)


def idle_row(ours: Served, peer: Served) -> Row:
    return paired(
        f"{WORKERS} workers, idle: of a core",
        ours.idle,
        peer.idle,
        unit="%",
        peer_source=PEER,
        goal="<= 3 % (stretch 1.5)",
        passes=lambda mine, _b, _c: mine <= 3,
    )


def load_rows(ours: Served, peer: Served) -> list[Row]:
    """Return the rows that come of the same blocks."""
    pairs = [
        (ours.load(), peer.load()) if index % 2 else (peer.load(), ours.load())[::-1]
        for index in range(BLOCKS + 2)
    ]
    name = f"{PER_S:,} jobs/s to {WORKERS} workers"
    return [
        paired(
            f"{name}: of a core",
            iter([mine["cpu"] for mine, _ in pairs]).__next__,
            iter([theirs["cpu"] for _, theirs in pairs]).__next__,
            unit="%",
            peer_source=PEER,
        ),
        _latencies(
            f"{name}: p99",
            [mine["took_ms"] for mine, _ in pairs[2:]],
            [theirs["took_ms"] for _, theirs in pairs[2:]],
        ),
    ]


def _latencies(name: str, ours: list[list[float]], peer: list[list[float]]) -> Row:
    """Return 99th percentiles over all blocks, and the ratios of the blocks' medians."""
    ratios = [
        statistics.median(mine) / statistics.median(theirs)
        for mine, theirs in zip(ours, peer, strict=True)
    ]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    a, b = (
        statistics.quantiles([value for block in blocks for value in block], n=100)[98]
        for blocks in (ours, peer)
    )
    return Row(name, "ms", a, b, ratio, low, high, len(ours), PEER)


def memory_row(ours: Served, peer: Served) -> Row:
    return paired(
        f"{WORKERS} workers: resident memory",
        ours.memory,
        peer.memory,
        unit="MiB",
        peer_source=PEER,
    )


def main() -> None:
    if "--serve" in sys.argv:
        run(SITES[sys.argv[-1]], WORKERS)
        return
    with Served("ours") as ours, Served("peer") as peer:
        rows = [idle_row(ours, peer), *load_rows(ours, peer), memory_row(ours, peer)]
    save("gateway", rows)


if __name__ == "__main__":
    main()
