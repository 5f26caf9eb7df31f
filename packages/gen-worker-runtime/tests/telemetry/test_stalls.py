"""A function that blocks the event loop is named, by a thread that the loop cannot block."""

from __future__ import annotations

import asyncio
import json
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime.telemetry.catalog import problems_of
from gen_worker.runtime.telemetry.stalls import LoopWatch, Stall, complaint
from gen_worker.testing.pool import Pool

if TYPE_CHECKING:
    from pathlib import Path

TOML = 'schema_version = 1\nname = "shop"\nmain = "shop"\n'
CODE = """
import asyncio, os, time
import msgspec
from gen_worker import RequestContext, inference_function

class Order(msgspec.Struct):
    until: str = ""

@inference_function
async def wait(ctx: RequestContext, order: Order) -> Order:
    while not os.path.exists(order.until):
        time.sleep(1.5)  # of all things
        await asyncio.sleep(0)  # a stall that the machine began is told of already
    return order
"""


class Watched:
    """A watch on the running loop, and what it said."""

    def __init__(self, limit_s: float = 0.05) -> None:
        self.stalls: list[Stall] = []
        self.ends: list[Stall] = []
        self.reported = threading.Event()
        self.named = threading.Event()
        self.watch = LoopWatch(
            limit_s,
            function_of=lambda name: "paint" if name == "r1" else "",
            stalled=self._stalled,
            turned=self.ends.append,
            ping_s=0.001,
        )

    def _stalled(self, stall: Stall) -> None:
        self.stalls.append(stall)
        self.reported.set()
        if stall.function:
            self.named.set()


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


async def test_a_blocking_function_is_named_once_with_its_line_and_again_at_its_end() -> None:
    watched = Watched()

    async def block() -> None:
        while not watched.named.wait(0.5):  # this line
            await asyncio.sleep(0)  # a stall that had begun before is told of already

    task = asyncio.get_running_loop().create_task(block(), name="r1")
    await task
    await until(lambda: any(end.function for end in watched.ends))
    watched.watch.close()
    # On a busy machine the loop may stand still at other times, too.
    (stall,) = [one for one in watched.stalls if one.function]
    (end,) = [one for one in watched.ends if one.function]
    assert (stall.function, stall.request_id) == ("paint", "r1")
    assert stall.line == "while not watched.named.wait(0.5):  # this line"
    assert stall.location.startswith(f"{__name__}:")
    assert stall.location.endswith("block")
    assert (stall.path, end.location) == (__file__, stall.location)
    assert end.seconds >= stall.seconds >= 0.05


async def test_each_stall_is_told_of() -> None:
    watched = Watched()
    for _ in range(2):
        before = len(watched.ends)
        watched.reported.clear()
        while not watched.reported.wait(0.5):
            await asyncio.sleep(0)
        await until(lambda before=before: len(watched.ends) > before)
    watched.watch.close()
    assert len(watched.stalls) >= 2
    assert {stall.function for stall in watched.stalls} == {""}


async def test_a_loop_that_turns_is_left_alone() -> None:
    watched = Watched(limit_s=60)
    await asyncio.sleep(0.05)
    watched.watch.close()
    assert watched.stalls == watched.ends == []


async def test_a_watch_ends_while_the_loop_is_blocked() -> None:
    watched = Watched()
    assert watched.reported.wait(60)
    watched.watch.close()
    assert len(watched.stalls) == 1
    assert watched.ends == []


async def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[str] = []
    reported = threading.Event()

    def function_of(name: str) -> str:
        looks.append(name)
        if len(looks) == 1:
            raise RuntimeError("changed during iteration")
        return ""

    watch = LoopWatch(
        0.05,
        function_of=function_of,
        stalled=lambda stall: reported.set(),
        turned=lambda stall: None,
        ping_s=0.001,
    )
    assert reported.wait(60)
    watch.close()
    assert "changed during iteration" in caplog.text


@pytest.mark.parametrize("asked", [False, True])
async def test_a_watch_ends_with_its_loop(asked: bool) -> None:
    loop = asyncio.new_event_loop()
    has_asked = threading.Event()

    async def watched() -> LoopWatch:
        ask = loop.call_soon_threadsafe

        def swallow(*_: object, **__: object) -> asyncio.Handle:
            has_asked.set()
            return ask(lambda: None)

        if asked:  # and the loop is closed before it can answer
            loop.call_soon_threadsafe = swallow  # type: ignore[method-assign]
        own = Watched(limit_s=60).watch
        assert not asked or has_asked.wait(60)
        return own

    watch = await asyncio.to_thread(loop.run_until_complete, watched())
    loop.close()
    await asyncio.to_thread(watch._thread.join, 60)
    assert not watch._thread.is_alive()


def test_what_an_operator_is_told() -> None:
    stall = Stall(2.04, "paint", "r1", "shop:12 paint", "/app/shop.py", "time.sleep(9)")
    text = complaint(stall)
    assert text.startswith("the event loop has not turned for 2.0 s, and heartbeats, ")
    assert "'paint' (request 'r1') is at /app/shop.py, shop:12 paint: `time.sleep(9)`; " in text
    assert text.endswith("such as `await asyncio.to_thread(...)`")
    assert "it is at /app/shop.py" in complaint(stall._replace(function="", request_id=""))
    assert "another thread keeps the interpreter" in complaint(Stall(2.0))


@pytest.mark.claims("WORKER_WARN_LOOP_BLOCKED_S")
def test_a_worker_says_what_blocks_it(tmp_path: Path) -> None:
    project, flag = tmp_path / "shop", tmp_path / "go"
    project.mkdir()
    (project / "endpoint.toml").write_text(TOML)
    (project / "shop.py").write_text(CODE)
    with Pool() as pool:
        environment = {"WORKER_WARN_LOOP_BLOCKED_S": "0.2"}
        process = pool.start(project, environment=environment)
        job = pool.submit("wait", {"until": str(flag)}, request_id="r1")
        ends_at = monotonic() + 60
        while "'wait' (request 'r1') is at" not in process.log:
            assert monotonic() < ends_at, process.log
            sleep(0.02)
        assert "`time.sleep(1.5)  # of all things`" in process.log
        flag.write_text("")
        assert job.output() == {"until": str(flag)}
        (worker,) = pool._connected()

        def told() -> tuple[Any, dict[str, Any]] | None:
            for event in worker.events("worker.loop_blocked"):
                payload = json.loads(event.payload_json)
                if payload["function_name"] == "wait":
                    return event, payload
            return None

        event, payload = pool._until(told)
        while "the event loop turns again after" not in process.log:
            assert monotonic() < ends_at, process.log
            sleep(0.02)
    assert problems_of(event.event_type, payload, request_id=event.request_id) == []
    assert payload["location"].startswith("shop:")
    assert payload["location"].endswith(" wait")
    assert payload["warn_after_s"] == 0.2
    assert payload["duration_ms"] >= 200
