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

    Step = Callable[[Invocation], Awaitable[Any]]

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


class Bench:
    """The engine's calls and their peers, in blocks of `CALLS`."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._hop = Hop()
        self._sync = invocations("reply", CALLS)
        self._async = invocations("reply-async", CALLS)

    def rows(self) -> list[Row]:
        """Run every comparison."""
        call, async_calls, sync_calls = self._engine.call, self._async, self._sync
        rows = [
            compare("engine, same thread, beyond a direct call", self._inline, _direct, 20, 8),
            compare(
                "engine, async with task and deadline",
                lambda: self._in_turn(call, async_calls),
                lambda: self._in_turn(_plain, async_calls),
                25,
                12,
            ),
            compare(
                "engine, sync through a thread, beyond a hop",
                lambda: self._in_turn(call, sync_calls),
                lambda: self._in_turn(self._bare_hop, sync_calls),
                20,
                8,
            ),
            compare(
                f"engine, sync, {OUTSTANDING} outstanding",
                lambda: self._at_once(call),
                lambda: self._at_once(_plain),
                20,
                8,
            ),
        ]
        self._hop.close()
        return rows

    def _inline(self) -> float:
        def run() -> None:
            for invocation in self._sync:
                self._engine.run(invocation)

        return timed(CALLS, run)

    def _in_turn(self, step: Step, work: list[Invocation]) -> float:
        return timed(CALLS, lambda: self._loop.run_until_complete(_one_by_one(step, work)))

    def _at_once(self, step: Step) -> float:
        async def run() -> None:
            parts = [self._sync[index::OUTSTANDING] for index in range(OUTSTANDING)]
            await asyncio.gather(*(_one_by_one(step, part) for part in parts))

        return timed(CALLS, lambda: self._loop.run_until_complete(run()))

    async def _bare_hop(self, invocation: Invocation) -> bytes:
        return await self._hop(PAYLOAD)


def _direct() -> float:
    def run() -> None:
        for _ in range(CALLS):
            direct(PAYLOAD)

    return timed(CALLS, run)


async def _plain(invocation: Invocation) -> bytes:
    return await direct_async(PAYLOAD)


async def _one_by_one(step: Step, work: list[Invocation]) -> None:
    for invocation in work:
        await step(invocation)


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
        save("engine", Bench(engine, loop).rows())
        loop.run_until_complete(engine.close())
        loop.close()


if __name__ == "__main__":
    main()
