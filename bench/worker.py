"""The gRPC worker against a peer that echoes each job at once, both connected to one driver.

The driver is the orchestrator's end of the protocol. It loads both in alternating blocks, and reads
the processor time of each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio
import msgspec
import uvloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Row, paired, save

from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    TokenDelta,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = "bench/peers/grpc_echo.py"
BLOCK_S = 0.4
ITEMS = 10_000
PAYLOAD = msgspec.msgpack.encode({"text": "hello world"})
STREAM = msgspec.msgpack.encode({"text": "tok ", "count": ITEMS})
TICKS = os.sysconf("SC_CLK_TCK")


class Worker:
    """One end of three streams."""

    def __init__(self) -> None:
        self.pid = 0
        self.connected = asyncio.Event()
        self.commands: deque[bytes] = deque()
        self.news = asyncio.Event()
        self.answer: Callable[[JobResult], None] = _ignore
        self.deltas = self.texts = 0
        self.first_delta_at = 0.0
        self.is_whole = asyncio.Event()

    def send(self, function: str, number: int, payload: bytes) -> None:
        request = JobRequest(request_id=f"{function}-{number}", function=function, payload=payload)
        self.commands.append(encode(request))
        self.news.set()

    async def write(self, context: Any) -> None:
        while True:
            while self.commands:
                await context.write(self.commands.popleft())
            self.news.clear()
            await self.news.wait()

    def heard(self, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, JobResult):
            assert message.success, message
            self.answer(message)
        elif isinstance(message, TokenDelta):
            if not self.deltas:
                self.first_delta_at = time.perf_counter()
            self.deltas += 1
            self.texts += len(message.delta_text)
        elif isinstance(message, StreamDone):
            self.is_whole.set()

    def cpu_s(self) -> float:
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mib(self) -> float:
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _ignore(result: JobResult) -> None:
    """Nobody waits for it."""


class Driver:
    """Both workers, by their ids."""

    def __init__(self) -> None:
        self.workers = {"ours": Worker(), "peer": Worker()}
        self.numbers = iter(range(10**9))

    async def start(self) -> str:
        self.server = grpc.aio.server(options=CHANNEL_OPTIONS)
        self.server.add_generic_rpc_handlers((_Methods(self._serve),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def _serve(self, role: str, first: Any, context: Any) -> None:
        registration = decode(await context.read())
        assert isinstance(registration, Registration)
        worker = self.workers[registration.resources.worker_id]
        writer = asyncio.create_task(worker.write(context)) if role == "control" else None
        if role == "events":
            worker.connected.set()
        try:
            while isinstance(data := await context.read(), bytes):
                worker.heard(data)
        finally:
            if writer is not None:
                writer.cancel()

    async def load(self, name: str, function: str, in_flight: int) -> Figures:
        """Keep so many requests under way for one block."""
        worker = self.workers[name]
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        sent: dict[str, float] = {}
        took: list[float] = []
        began = time.perf_counter()
        cpu_s = worker.cpu_s()

        def send() -> None:
            number = next(self.numbers)
            sent[f"{function}-{number}"] = time.perf_counter()
            worker.send(function, number, PAYLOAD)

        def answered(result: JobResult) -> None:
            now = time.perf_counter()
            took.append(now - sent.pop(result.request_id))
            if now - began < BLOCK_S:
                send()
            elif not sent and not done.done():
                done.set_result(None)

        worker.answer = answered
        for _ in range(in_flight):
            send()
        await done
        elapsed_s = time.perf_counter() - began
        cpu_us = (worker.cpu_s() - cpu_s) / len(took) * 1e6
        return Figures(statistics.median(took) * 1e3, len(took) / elapsed_s, cpu_us)

    async def stream(self, name: str, function: str) -> Streamed:
        worker = self.workers[name]
        worker.deltas = worker.texts = 0
        worker.is_whole.clear()
        answered = asyncio.Event()
        worker.answer = lambda _: answered.set()
        began = time.perf_counter()
        worker.send(function, next(self.numbers), STREAM)
        await asyncio.gather(worker.is_whole.wait(), answered.wait())
        elapsed_s = time.perf_counter() - began
        assert worker.texts == ITEMS * len("tok "), f"{name} lost text"
        first_ms = (worker.first_delta_at - began) * 1e3
        return Streamed(worker.deltas / elapsed_s, ITEMS / elapsed_s, first_ms, worker.deltas)


class Figures(NamedTuple):
    p50_ms: float
    per_s: float
    cpu_us: float


class Streamed(NamedTuple):
    messages_per_s: float
    items_per_s: float
    first_ms: float
    messages: int


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    def __init__(self, serve: Any) -> None:
        self._roles = {path: role for role, path in METHODS.items()}
        self._serve = serve

    def service(self, details: Any) -> Any:
        role = self._roles[details.method]
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, role))


def lock_of(project: str, path: str) -> None:
    command = [sys.executable, "-m", "gen_worker.discover", "--root", project, "-o", path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def processes(address: str, scratch: str, **environment: str) -> Iterator[tuple[int, int]]:
    """Run both, and return their process ids."""
    project = os.path.join(HERE, "echo")
    lock = os.path.join(scratch, "endpoint.lock")
    if not os.path.exists(lock):
        lock_of(project, lock)
    ours = subprocess.Popen(
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
    peer = subprocess.Popen([sys.executable, os.path.join(HERE, "peers/grpc_echo.py"), address])
    try:
        yield ours.pid, peer.pid
    finally:
        for process in (ours, peer):
            process.kill()
            process.wait()


class Run:
    """Both workers connected, and the rows that come of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, driver: Driver) -> None:
        self.loop = loop
        self.driver = driver
        self.rows: list[Row] = []

    def connect(self, ours: int, peer: int) -> None:
        workers = self.driver.workers
        workers["ours"].pid, workers["peer"].pid = ours, peer
        waits = [worker.connected.wait() for worker in workers.values()]
        self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(*waits), 30))

    def add(
        self,
        name: str,
        measure: Callable[[str], Coroutine[Any, Any, float]],
        *,
        unit: str,
        bar: float,
        stretch: float,
        is_rate: bool = False,
        blocks: int = 20,
    ) -> None:
        sign = ">=" if is_rate else "<="
        self.rows.append(
            paired(
                name,
                lambda: self.loop.run_until_complete(measure("ours")),
                lambda: self.loop.run_until_complete(measure("peer")),
                unit=unit,
                peer_source=PEER,
                blocks=blocks,
                goal=f"{sign} {bar:g} x (stretch {stretch:g})",
                passes=lambda _a, _b, ratio: ratio >= bar if is_rate else ratio <= bar,
            )
        )

    def load(
        self,
        kind: str,
        p50: tuple[float, float],
        rate: tuple[float, float],
        cpu: tuple[float, float],
    ) -> None:
        function = f"echo-{kind}"

        async def p50_ms(name: str) -> float:
            return (await self.driver.load(name, function, 1)).p50_ms

        async def per_s(name: str) -> float:
            return (await self.driver.load(name, function, 64)).per_s

        async def cpu_us(name: str) -> float:
            return (await self.driver.load(name, function, 1)).cpu_us

        self.add(f"{kind}: p50, 1 in flight", p50_ms, unit="ms", bar=p50[0], stretch=p50[1])
        self.add(
            f"{kind}: requests/s, 64 in flight",
            per_s,
            unit="/s",
            bar=rate[0],
            stretch=rate[1],
            is_rate=True,
        )
        self.add(
            f"{kind}: processor time of a request", cpu_us, unit="us", bar=cpu[0], stretch=cpu[1]
        )

    def stream(self, kind: str, *, is_merged: bool) -> None:
        function = f"stream-{kind}"

        async def rate(name: str) -> float:
            streamed = await self.driver.stream(name, function)
            return streamed.items_per_s if is_merged else streamed.messages_per_s

        async def first_ms(name: str) -> float:
            return (await self.driver.stream(name, function)).first_ms

        form = "merged" if is_merged else "unmerged"
        bar, stretch = (5.0, 20.0) if is_merged else (0.7, 0.9)
        self.add(
            f"stream {kind}, {form}: items/s",
            rate,
            unit="/s",
            bar=bar,
            stretch=stretch,
            is_rate=True,
            blocks=14,
        )
        if is_merged:
            self.rows.append(
                paired(
                    f"stream {kind}: first delta",
                    lambda: self.loop.run_until_complete(first_ms("ours")),
                    lambda: self.loop.run_until_complete(first_ms("peer")),
                    unit="ms",
                    peer_source=PEER,
                    blocks=14,
                    goal="<= 3 ms (stretch 1.5)",
                    passes=lambda ours, _b, _c: ours <= 3,
                )
            )

    def idle(self) -> None:
        ours, peer = self.driver.workers["ours"], self.driver.workers["peer"]

        def cpu_percent(worker: Worker) -> float:
            before = worker.cpu_s()
            self.loop.run_until_complete(asyncio.sleep(2))
            return (worker.cpu_s() - before) / 2 * 100

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


def start_row(loop: asyncio.AbstractEventLoop, scratch: str) -> Row:
    """From the entrypoint to the first answer, beyond a bare interpreter."""

    def ours() -> float:
        async def first_answer() -> float:
            driver = Driver()
            address = await driver.start()
            began = time.perf_counter()
            with processes(address, scratch) as (pid, _):
                worker = driver.workers["ours"]
                worker.pid = pid
                answered = asyncio.Event()
                worker.answer = lambda _: answered.set()
                worker.send("echo-sync", 0, PAYLOAD)
                await asyncio.wait_for(answered.wait(), 60)
                took_ms = (time.perf_counter() - began) * 1e3
            await driver.server.stop(None)
            return took_ms

        return loop.run_until_complete(first_answer())

    def bare() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        return (time.perf_counter() - began) * 1e3

    return paired(
        "entrypoint to first answer",
        ours,
        bare,
        unit="ms",
        peer_source="bench/peers/bare.py",
        goal="<= 350 ms (stretch 250)",
        passes=lambda mine, _b, _c: mine <= 350,
    )


def main() -> None:
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[Row] = []
        for is_merged in (False, True):
            driver = Driver()
            address = loop.run_until_complete(driver.start())
            run = Run(loop, driver)
            with processes(address, scratch, WORKER_MERGE_DELTAS=str(int(is_merged))) as pids:
                run.connect(*pids)
                if is_merged:
                    run.idle()
                    run.load("sync", (1.5, 1.35), (0.6, 0.75), (1.9, 1.6))
                    run.load("async", (1.25, 1.1), (0.8, 0.95), (1.4, 1.15))
                for kind in ("sync", "async"):
                    run.stream(kind, is_merged=is_merged)
            loop.run_until_complete(driver.server.stop(None))
            rows += run.rows
        rows.append(start_row(loop, scratch))
    save("worker", rows)


main()
