"""What a call costs beyond decoding, calling and encoding: the engine's own overhead.

Bytes in, bytes out, a function that does nothing, on uvloop. The peers are in this file: `direct`
decodes, calls and encodes, `Hop` does so in another thread, fed by a queue, that wakes the loop.

    python bench/engine.py [--save]
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop
from harness import Row, paired, save

from gen_worker import RequestContext, inference_function
from gen_worker.events import Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAYLOAD = b'{"text":"hello","steps":4}'
OUTSTANDING = 64
CALLS = 1500
"""Per block."""


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


def compare(
    name: str, engine: Callable[[], float], peer: Callable[[], float], goal: float, stretch: float
) -> Row:
    """Compare blocks of the engine and its peer; each callable returns microseconds per call."""
    return paired(
        name,
        engine,
        peer,
        unit="us",
        peer_source="bench/engine.py",
        goal=f"<= peer + {goal:g} us (stretch {stretch:g})",
        passes=lambda ours, peer, _ratio: ours - peer <= goal,
    )


def timed(calls: int, function: Callable[[], None]) -> float:
    gc.collect()
    start = perf_counter()
    function()
    return (perf_counter() - start) / calls * 1e6


def measure(engine: Engine, loop: asyncio.AbstractEventLoop, calls: int) -> list[Row]:
    """Run every comparison."""
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
        compare(
            "engine, same thread, beyond a direct call",
            lambda: timed(calls, run_inline),
            lambda: timed(calls, run_direct),
            20,
            8,
        ),
        compare(
            "engine, async with task and deadline",
            lambda: on_loop(engine.call, async_calls),
            lambda: on_loop(plain, async_calls),
            25,
            12,
        ),
        compare(
            "engine, sync through a thread, beyond a hop",
            lambda: on_loop(engine.call, sync_calls),
            lambda: on_loop(bare_hop, sync_calls),
            20,
            8,
        ),
        compare(
            f"engine, sync, {OUTSTANDING} outstanding",
            lambda: outstanding(engine.call),
            lambda: outstanding(plain),
            20,
            8,
        ),
    ]
    hop.close()
    return rows


class NoEvents:
    """A host that shows telemetry to nobody."""

    def emit(self, event: Any) -> None:
        return None


def main() -> None:
    """Print one row per comparison, and with `--save` keep them."""
    functions = [specs_of(inference_function(f))[0] for f in (reply, reply_async)]
    with tempfile.TemporaryDirectory() as directory:
        ports = msgspec.structs.replace(fake_ports(Path(directory)), events=NoEvents())
        engine = Engine(functions, ports)
        loop = uvloop.new_event_loop()
        outcome = engine.run(invocations("reply", 1)[0])
        assert isinstance(outcome, Result)
        assert bytes(outcome.value) == direct(PAYLOAD), "both must do the same work"
        save("engine", measure(engine, loop, CALLS))
        loop.run_until_complete(engine.close())
        loop.close()


if __name__ == "__main__":
    main()
