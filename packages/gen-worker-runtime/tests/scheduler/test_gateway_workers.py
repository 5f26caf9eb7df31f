"""The gateway and real workers, over a network that breaks and falls silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gen_worker import RequestContext, inference_function
from gen_worker.runtime.scheduler.gateway import Gateway, GatewayHandler, Session
from gen_worker.runtime.wire import Drain, DrainResult, JobRequest, JobResult
from gen_worker.testing.cable import Cable
from gen_worker.testing.workers import working

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.wire import Message, Registration

PATIENCE_S = 30.0


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


class Scheduler(GatewayHandler):
    """Gives each request again that a new connection knows nothing of, until it has ended."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.open: dict[str, JobRequest] = {}
        self.results: dict[str, list[JobResult]] = {}
        self.drains: list[str] = []
        self.losses = 0
        self.news = asyncio.Event()

    def submit(self, number: int) -> None:
        payload = msgspec.msgpack.encode({"text": f"text {number}"})
        request = JobRequest(request_id=f"r{number}", function="echo", payload=payload)
        self.open[request.request_id] = request
        if self.session is not None:
            self.session.send(request)

    def registered(self, session: Session, registration: Registration) -> None:
        self.session = session
        for request_id, request in self.open.items():
            if request_id not in registration.in_flight_request_ids:
                session.send(request)
        self.news.set()

    def heartbeat(self, session: Session, registration: Registration) -> None:
        self.news.set()

    def heard(self, session: Session, message: Message) -> None:
        if isinstance(message, JobResult):
            self.open.pop(message.request_id, None)
            self.results.setdefault(message.request_id, []).append(message)
        elif isinstance(message, DrainResult):
            self.drains.append(message.status)
        self.news.set()

    def lost(self, session: Session, reason: str) -> None:
        self.losses += 1
        self.news.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self.news.clear()
                await self.news.wait()


async def test_whatever_the_network_does_every_request_is_answered() -> None:
    scheduler = Scheduler()
    gateway = Gateway("127.0.0.1:0", scheduler)
    await gateway.start()
    try:
        async with Cable(gateway.address) as cable, working([echo], cable.address):
            await scheduler.until(lambda: scheduler.session is not None)
            for number in range(120):
                if number % 30 == 10:
                    cable.cut_after(more_bytes=number * 7)
                if number % 30 == 20:
                    cable.cut()
                scheduler.submit(number)
                await scheduler.until(lambda: len(scheduler.open) < 8)
            await scheduler.until(lambda: not scheduler.open)
        assert len(scheduler.results) == 120
        for number in range(120):
            expected = {"text": f"text {number}"}
            for result in scheduler.results[f"r{number}"]:
                assert msgspec.msgpack.decode(result.payload) == expected
        assert scheduler.losses >= 1
    finally:
        await gateway.stop()


async def test_a_drained_worker_leaves_in_order() -> None:
    scheduler = Scheduler()
    gateway = Gateway("127.0.0.1:0", scheduler)
    await gateway.start()
    try:
        async with working([echo], gateway.address):
            await scheduler.until(lambda: scheduler.session is not None)
            assert scheduler.session is not None
            scheduler.session.send(Drain(reason="scale_down"))
            await scheduler.until(lambda: scheduler.losses > 0)
            assert scheduler.drains == ["draining", "drained"]
            assert not scheduler.session.is_connected
    finally:
        await gateway.stop()


async def test_workers_come_back_to_a_scheduler_that_does() -> None:
    scheduler = Scheduler()
    gateway = Gateway("127.0.0.1:0", scheduler)
    await gateway.start()
    try:
        async with working([echo], gateway.address):
            await scheduler.until(lambda: scheduler.session is not None)
            await gateway.stop(1.0)
            assert scheduler.losses == 1
            scheduler.submit(1)
            await gateway.start()
            await scheduler.until(lambda: not scheduler.open)
    finally:
        await gateway.stop()
