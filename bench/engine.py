"""What a call costs beyond decoding, calling and encoding: the engine's own overhead.

Bytes in, bytes out, a function that does nothing. Each figure is the median over paired,
alternating blocks: one block of the engine, one of its peer, and so on, in one process. The peers
are in this file: `direct` decodes, calls and encodes, `hop` does so in another thread that a queue
feeds and that wakes the loop.

    python bench/engine.py [--blocks 21] [--calls 1500] [--loop uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import statistics
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from gen_worker import RequestContext, inference_function
from gen_worker.events import Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

__all__ = ["Row", "main"]

PAYLOAD = b'{"text":"hello","steps":4}'
OUTSTANDING = 64


class In(msgspec.Struct):
    text: str
    steps: int = 1


class Out(msgspec.Struct):
    text: str


def reply(ctx: RequestContext, payload: In) -> Out:
    return Out(payload.text)


async def reply_async(ctx: RequestContext, payload: In) -> Out:
    return Out(payload.text)


DECODER = msgspec.json.Decoder(In)
ENCODER = msgspec.json.Encoder()


def direct(data: bytes) -> bytes:
    return ENCODER.encode(reply(None, DECODER.decode(data)))  # type: ignore[arg-type]


async def direct_async(data: bytes) -> bytes:
    return ENCODER.encode(await reply_async(None, DECODER.decode(data)))  # type: ignore[arg-type]


class Row(NamedTuple):
    """One comparison; times in microseconds per call."""

    name: str
    peer: str
    engine_us: float
    peer_us: float
    overhead_us: float
    goal_us: float
    stretch_us: float
    blocks: int

    def __str__(self) -> str:
        verdict = "stretch" if self.overhead_us <= self.stretch_us else (
            "goal" if self.overhead_us <= self.goal_us else "MISSED"
        )
        return (
            f"{self.name:28} {self.engine_us:8.2f}  {self.peer:10} {self.peer_us:8.2f}  "
            f"overhead {self.overhead_us:6.2f} us  (goal {self.goal_us:g}, stretch "
            f"{self.stretch_us:g}: {verdict}, n={self.blocks})"
        )


class Hop:
    """The least that brings a job to another thread and its result back to the loop."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Any, bytes] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, data = job
            result = direct(data)
            future.get_loop().call_soon_threadsafe(future.set_result, result)

    async def __call__(self, data: bytes) -> bytes:
        future = asyncio.get_running_loop().create_future()
        self._jobs.put((future, data))
        result: bytes = await future
        return result

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()


def invocations(function: str, count: int) -> list[Invocation]:
    return [
        Invocation(
            function=function,
            payload=PAYLOAD,
            result_format="json",
            request_id=f"r{index}",
            timeout_ms=60_000,
        )
        for index in range(count)
    ]


def paired(
    name: str,
    engine: Callable[[], float],
    peer: Callable[[], float],
    *,
    peer_name: str,
    blocks: int,
    goal_us: float,
    stretch_us: float,
) -> Row:
    """Alternate blocks of the engine and its peer; each callable returns microseconds per call."""
    engine()
    peer()
    pairs = [(engine(), peer()) for _ in range(blocks)]
    return Row(
        name=name,
        peer=peer_name,
        engine_us=statistics.median(pair[0] for pair in pairs),
        peer_us=statistics.median(pair[1] for pair in pairs),
        overhead_us=statistics.median(pair[0] - pair[1] for pair in pairs),
        goal_us=goal_us,
        stretch_us=stretch_us,
        blocks=blocks,
    )


def timed(calls: int, function: Callable[[], None]) -> float:
    gc.collect()
    start = perf_counter()
    function()
    return (perf_counter() - start) / calls * 1e6


def measure(engine: Engine, loop: asyncio.AbstractEventLoop, blocks: int, calls: int) -> list[Row]:
    """Run every comparison."""
    options = {"blocks": blocks}
    sync_calls, async_calls = invocations("reply", calls), invocations("reply-async", calls)
    hop = Hop()

    def run_inline() -> None:
        for invocation in sync_calls:
            engine.run(invocation)

    def run_direct() -> None:
        for _ in range(calls):
            direct(PAYLOAD)

    def on_loop(step: Callable[[Invocation], Awaitable[Any]], work: list[Invocation]) -> float:
        async def run() -> None:
            for invocation in work:
                await step(invocation)

        return timed(calls, lambda: loop.run_until_complete(run()))

    def outstanding(step: Callable[[Invocation], Awaitable[Any]]) -> float:
        async def client(work: list[Invocation]) -> None:
            for invocation in work:
                await step(invocation)

        async def run() -> None:
            parts = [sync_calls[index::OUTSTANDING] for index in range(OUTSTANDING)]
            await asyncio.gather(*map(client, parts))

        return timed(calls, lambda: loop.run_until_complete(run()))

    async def plain(invocation: Invocation) -> bytes:
        return await direct_async(PAYLOAD)

    async def bare_hop(invocation: Invocation) -> bytes:
        return await hop(PAYLOAD)

    rows = [
        paired(
            "same thread",
            lambda: timed(calls, run_inline),
            lambda: timed(calls, run_direct),
            peer_name="direct",
            goal_us=20,
            stretch_us=8,
            **options,
        ),
        paired(
            "async, task and deadline",
            lambda: on_loop(engine.call, async_calls),
            lambda: on_loop(plain, async_calls),
            peer_name="direct",
            goal_us=25,
            stretch_us=12,
            **options,
        ),
        paired(
            "sync through a thread",
            lambda: on_loop(engine.call, sync_calls),
            lambda: on_loop(bare_hop, sync_calls),
            peer_name="hop",
            goal_us=20,
            stretch_us=8,
            **options,
        ),
        paired(
            f"sync, {OUTSTANDING} outstanding",
            lambda: outstanding(engine.call),
            lambda: outstanding(plain),
            peer_name="direct",
            goal_us=20,
            stretch_us=8,
            **options,
        ),
        paired(
            f"sync, {OUTSTANDING} outstanding",
            lambda: outstanding(engine.call),
            lambda: outstanding(bare_hop),
            peer_name="hop",
            goal_us=20,
            stretch_us=8,
            **options,
        ),
    ]
    hop.close()
    return rows


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class NoEvents:
    """A host that shows telemetry to nobody."""

    def emit(self, event: Any) -> None:
        return None


def main() -> None:
    """Print one row per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--blocks", type=int, default=21)
    parser.add_argument("--calls", type=int, default=1500, help="per block")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    options = parser.parse_args()
    functions = [specs_of(inference_function(f))[0] for f in (reply, reply_async)]
    print(f"# {platform.python_implementation()} {platform.python_version()}, {options.loop}")
    with tempfile.TemporaryDirectory() as directory:
        ports = msgspec.structs.replace(fake_ports(Path(directory)), events=NoEvents())
        engine = Engine(functions, ports)
        loop = new_loop(options.loop)
        outcome = engine.run(invocations("reply", 1)[0])
        assert isinstance(outcome, Result)
        assert bytes(outcome.value) == direct(PAYLOAD), "both must do the same work"
        for row in measure(engine, loop, options.blocks, options.calls):
            print(row)
        loop.run_until_complete(engine.close())
        loop.close()


if __name__ == "__main__":
    main()
