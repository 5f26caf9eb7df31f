"""How long a cancelled handler goes on: the 99th percentile of 1,000 cancels.

Of 126 where other threads are busy, because each cancel then takes long. The peers, in this file,
are the bare mechanisms: `task.cancel()` on a bare task, and `PyThreadState_SetAsyncExc` on a bare
thread that spins. They have no regions, shields or frames to look at, and no outcome to deliver.

    python bench/cancel.py [--save]
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import tempfile
import threading
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import uvloop
from harness import paired_latencies, save

from gen_worker import RequestContext, inference_function
from gen_worker.cancel import CancelToken
from gen_worker.events import Event, Failed
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PER_BLOCK = 72
"""Cancels; 14 blocks make a thousand."""
PER_BUSY_BLOCK = 9
SETTLE_S = 0.004
"""How long a handler runs before it is cancelled."""


class Nothing(msgspec.Struct):
    pass


@inference_function
async def wait(ctx: RequestContext, payload: Nothing) -> Nothing:
    await asyncio.sleep(60)
    return payload


@inference_function
def spin(ctx: RequestContext, payload: Nothing) -> Nothing:
    total = 0
    while True:
        total += 1


class Stopped:
    """A sink that notes when the call was over."""

    wants_events = False

    def __init__(self) -> None:
        self.over: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def deliver(self, batch: Sequence[Event]) -> None:
        assert isinstance(batch[-1], Failed), batch
        self.over.set_result(perf_counter())


async def engine_latency(engine: Engine, function: str, number: int) -> float:
    token, sink = CancelToken(), Stopped()
    engine.submit(Invocation(function=function, request_id=f"r{number}"), sink, token=token)
    await asyncio.sleep(SETTLE_S)
    begin = perf_counter()
    token.cancel()
    return (await sink.over - begin) * 1e3


async def task_latency(_number: int) -> float:
    async def handler() -> None:
        await asyncio.sleep(60)

    task = asyncio.ensure_future(handler())
    await asyncio.sleep(SETTLE_S)
    begin = perf_counter()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return (perf_counter() - begin) * 1e3


class Interrupt(BaseException):
    """What the bare mechanism raises."""


async def thread_latency(_number: int) -> float:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    begun = threading.Event()

    def handler() -> None:
        total = 0
        try:
            begun.set()
            while True:
                total += 1
        except Interrupt:
            loop.call_soon_threadsafe(over.set_result, perf_counter())

    thread = threading.Thread(target=handler)
    thread.start()
    await asyncio.sleep(SETTLE_S)
    begun.wait()  # thrown any earlier, it would end the thread and not the handler
    begin = perf_counter()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt)
    )
    latency: float = (await over - begin) * 1e3
    thread.join()
    return latency


@contextlib.contextmanager
def busy(threads: int) -> Iterator[None]:
    """Keep other Python threads running that never wait."""
    stop = threading.Event()

    def work() -> None:
        total = 0
        while not stop.is_set():
            total += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def main() -> None:
    """Print one row per situation, and with `--save` keep them."""
    functions = [spec for function in (wait, spin) for spec in specs_of(function)]
    loop = uvloop.new_event_loop()
    with tempfile.TemporaryDirectory() as directory:
        engine = Engine(functions, fake_ports(Path(directory)))

        measure = partial(paired_latencies, loop=loop, peer_source="bench/cancel.py")
        waiting = partial(engine_latency, engine, "wait")
        spinning = partial(engine_latency, engine, "spin")
        rows = [
            measure(
                "cancel an async handler",
                ours=waiting,
                peer=task_latency,
                per_block=PER_BLOCK,
                most_ms=5,
                stretch_ms=3,
            ),
            measure(
                "cancel a pure-Python loop",
                ours=spinning,
                peer=thread_latency,
                per_block=PER_BLOCK,
                most_ms=40,
                stretch_ms=15,
            ),
        ]
        with busy(3):
            rows.append(
                measure(
                    "cancel a pure-Python loop, 3 busy threads",
                    ours=spinning,
                    peer=thread_latency,
                    per_block=PER_BUSY_BLOCK,
                    most_ms=150,
                    stretch_ms=60,
                )
            )
        statistics_ = engine.statistics()
        assert statistics_.stuck_threads == 0, statistics_
        save("cancel", rows)
        loop.run_until_complete(engine.close())
    loop.close()


if __name__ == "__main__":
    main()
