"""The gRPC worker against a peer that echoes each job at once, both connected to one orchestrator.

Usage: worker.py [--save] [ROWS...]; ROWS are those of `GROUPS`, by default all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Row, paired, save
from peers.orchestrator import Load, Orchestrator, Streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = "bench/peers/grpc_echo.py"
GROUPS = ("sync", "async", "merged", "unmerged", "idle", "start")
LOAD_BLOCKS = 16
STREAM_BLOCKS = 14
ITEMS = {"merged": 10_000, "unmerged": 5_000}
"""Of each stream; an echo of 10,000 takes more than a second."""


class Bar(NamedTuple):
    """What a row has to reach, as a ratio, and what it should."""

    goal: float
    stretch: float
    is_rate: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.is_rate else '<='} {self.goal:g} x (stretch {self.stretch:g})"

    def passes(self, ours: float, peer: float, ratio: float) -> bool:
        return ratio >= self.goal if self.is_rate else ratio <= self.goal


P50 = {"sync": Bar(1.5, 1.35), "async": Bar(1.25, 1.1)}
RATE = {"sync": Bar(0.6, 0.75, is_rate=True), "async": Bar(0.8, 0.95, is_rate=True)}
CPU = {"sync": Bar(1.9, 1.6), "async": Bar(1.4, 1.15)}
ITEM_RATE = {"merged": Bar(5, 20, is_rate=True), "unmerged": Bar(0.7, 0.9, is_rate=True)}


@contextlib.contextmanager
def our_worker(address: str, scratch: str, **environment: str) -> Iterator[int]:
    """Run a worker, and return its process id."""
    project = os.path.join(HERE, "echo")
    lock = os.path.join(scratch, "endpoint.lock")
    if not os.path.exists(lock):
        command = [sys.executable, "-m", "gen_worker.discover", "--root", project, "-o", lock]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        [sys.executable, "-m", "gen_worker.entrypoint"],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": project,
            "GEN_WORKER_LOCK": lock,
            "ORCHESTRATOR_PUBLIC_ADDR": address,
            "PUBLIC_ORCHESTRATOR_GRPC_ADDR": address,
            "WORKER_JWT": "bench",
            "WORKER_ID": "ours",
            "TENSORHUB_CACHE_DIR": os.path.join(scratch, "cache"),
            **environment,
        },
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with ended(process):
        yield process.pid


@contextlib.contextmanager
def peer_worker(address: str) -> Iterator[int]:
    """Run the peer, and return its process id."""
    process = subprocess.Popen([sys.executable, os.path.join(HERE, "peers/grpc_echo.py"), address])
    with ended(process):
        yield process.pid


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process after the block."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Run:
    """Both workers connected, and the rows that come of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, orchestrator: Orchestrator) -> None:
        self.loop = loop
        self.orchestrator = orchestrator
        self.rows: list[Row] = []

    def connect(self, ours: int, peer: int) -> None:
        workers = self.orchestrator.workers
        workers["ours"].pid, workers["peer"].pid = ours, peer
        waits = [worker.connected.wait() for worker in workers.values()]
        self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(*waits), 30))

    def load(self, kind: str) -> None:
        """Measure requests of one kind of function, one at a time and 64 at a time."""
        function = f"echo-{kind}"

        def one(name: str) -> Load:
            return self.loop.run_until_complete(self.orchestrator.load(name, function, 1))

        def many(name: str) -> Load:
            return self.loop.run_until_complete(self.orchestrator.load(name, function, 64))

        single, loaded = _blocks(one, LOAD_BLOCKS), _blocks(many, LOAD_BLOCKS)
        self._add(f"{kind}: p50, 1 in flight", single, "p50_ms", "ms", P50[kind])
        self._add(f"{kind}: requests/s, 64 in flight", loaded, "per_s", "/s", RATE[kind])
        self._add(f"{kind}: processor time of a request", single, "cpu_us", "us", CPU[kind])

    def stream(self, kind: str, form: str) -> None:
        """Measure streams, with and without joining text that waits."""
        function, items = f"stream-{kind}", ITEMS[form]

        def one(name: str) -> Streamed:
            return self.loop.run_until_complete(self.orchestrator.stream(name, function, items))

        blocks = _blocks(one, STREAM_BLOCKS)
        figure = "items_per_s" if form == "merged" else "messages_per_s"
        self._add(f"stream {kind}, {form}: items/s", blocks, figure, "/s", ITEM_RATE[form])
        if form == "merged":
            self.rows.append(
                paired(
                    f"stream {kind}: first delta",
                    iter([ours.first_ms for ours, _ in blocks]).__next__,
                    iter([peer.first_ms for _, peer in blocks]).__next__,
                    unit="ms",
                    peer_source=PEER,
                    blocks=STREAM_BLOCKS,
                    goal="<= 3 ms (stretch 1.5)",
                    passes=lambda ours, _b, _c: ours <= 3,
                )
            )

    def _add(
        self, name: str, blocks: list[tuple[Any, Any]], figure: str, unit: str, bar: Bar
    ) -> None:
        self.rows.append(
            paired(
                name,
                iter([getattr(ours, figure) for ours, _ in blocks]).__next__,
                iter([getattr(peer, figure) for _, peer in blocks]).__next__,
                unit=unit,
                peer_source=PEER,
                blocks=len(blocks) - 2,
                goal=str(bar),
                passes=bar.passes,
            )
        )

    def idle(self) -> None:
        ours, peer = self.orchestrator.workers["ours"], self.orchestrator.workers["peer"]

        def cpu_percent(worker: Any) -> float:
            before = worker.cpu_s()
            self.loop.run_until_complete(asyncio.sleep(2))
            return float(worker.cpu_s() - before) / 2 * 100

        self.rows.append(
            paired(
                "idle: resident memory",
                ours.resident_mib,
                peer.resident_mib,
                unit="MiB",
                peer_source=PEER,
                goal="<= 56 MiB (stretch 50)",
                passes=lambda mine, _b, _c: mine <= 56,
            )
        )
        print(
            f"idle: {cpu_percent(ours):.2f} % of a core (0.3 / 0.1), peer {cpu_percent(peer):.2f}"
        )


def _blocks(measure: Callable[[str], Any], blocks: int) -> list[tuple[Any, Any]]:
    """Measure ours and the peer in turn; as `paired` does, of which this is one of two halves.

    Several rows come of the same blocks.
    """
    pairs = []
    for index in range(blocks + 2):
        if index % 2:
            ours = measure("ours")
            pairs.append((ours, measure("peer")))
        else:
            peer = measure("peer")
            pairs.append((measure("ours"), peer))
    return pairs


def start_row(loop: asyncio.AbstractEventLoop, scratch: str) -> Row:
    """From the entrypoint to the first answer, beyond a bare interpreter."""

    def worker() -> float:
        async def first_answer() -> float:
            orchestrator = Orchestrator()
            address = await orchestrator.start()
            began = time.perf_counter()
            with our_worker(address, scratch):
                first = orchestrator.workers["ours"]
                answered = asyncio.Event()
                first.answer = lambda _: answered.set()
                first.send("echo-sync", 0, {"text": "hello world"})
                await asyncio.wait_for(answered.wait(), 60)
                took_ms = (time.perf_counter() - began) * 1e3
            await orchestrator.stop()
            return took_ms

        return loop.run_until_complete(first_answer())

    def bare() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        return (time.perf_counter() - began) * 1e3

    return paired(
        "entrypoint to first answer",
        worker,
        bare,
        unit="ms",
        peer_source="bench/peers/bare.py",
        goal="<= 350 ms (stretch 250)",
        passes=lambda mine, _b, _c: mine <= 350,
    )


def connected(
    loop: asyncio.AbstractEventLoop, scratch: str, measure: Callable[[Run], None], **settings: str
) -> list[Row]:
    """Return the rows of workers with such settings."""
    orchestrator = Orchestrator()
    run = Run(loop, orchestrator)
    address = loop.run_until_complete(orchestrator.start())
    with our_worker(address, scratch, **settings) as our_pid, peer_worker(address) as peer_pid:
        run.connect(our_pid, peer_pid)
        measure(run)
    loop.run_until_complete(orchestrator.stop())
    return run.rows


def main() -> None:
    wanted = [word for word in sys.argv[1:] if word in GROUPS] or GROUPS
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)

    def usual(run: Run) -> None:
        if "idle" in wanted:
            run.idle()
        for kind in ("sync", "async"):
            if kind in wanted:
                run.load(kind)
        if "merged" in wanted:
            run.stream("sync", "merged")
            run.stream("async", "merged")

    def unmerged(run: Run) -> None:
        run.stream("sync", "unmerged")
        run.stream("async", "unmerged")

    with tempfile.TemporaryDirectory() as scratch:
        rows = connected(loop, scratch, usual) if set(wanted) - {"unmerged", "start"} else []
        if "unmerged" in wanted:
            rows += connected(loop, scratch, unmerged, WORKER_MERGE_DELTAS="0")
        if "start" in wanted:
            rows.append(start_row(loop, scratch))
    save("worker", rows)


if __name__ == "__main__":
    main()
