"""Jobs that run on a real engine, watched by real telemetry, and what it said of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from gen_worker.events import Failed, Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.telemetry import Telemetry
from gen_worker.runtime.telemetry.catalog import find, problems_of
from gen_worker.runtime.telemetry.memory import MemoryGauge
from gen_worker.runtime.wire import DiagnosticLog, JobRequest, Observation, WorkerEvent
from gen_worker.spec import specs_of
from gen_worker.testing import VirtualClock
from gen_worker.testing.ports import fake_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gen_worker.events import Event
    from gen_worker.ports import Ports
    from gen_worker.runtime import Clock, RunningCall
    from gen_worker.spec import FunctionSpec

TIMEOUT_S = 60.0


class Heard:
    """What was passed on, in place of a worker's outbox."""

    def __init__(self, room: int = 10_000) -> None:
        self.messages: list[WorkerEvent | DiagnosticLog] = []
        self.room = room
        self.shed = 0

    def tell(self, event: WorkerEvent | DiagnosticLog) -> bool:
        has_room = len(self.messages) < self.room
        if not has_room:
            self.messages.pop(0)
            self.shed += 1
        self.messages.append(event)
        return has_room

    @property
    def events(self) -> list[WorkerEvent]:
        return [message for message in self.messages if isinstance(message, WorkerEvent)]

    @property
    def diagnostics(self) -> list[DiagnosticLog]:
        return [message for message in self.messages if isinstance(message, DiagnosticLog)]

    def names(self, request_id: str | None = None) -> list[str]:
        return [
            event.event_type
            for event in self.events
            if request_id is None or event.request_id == request_id
        ]

    def payload(self, name: str) -> dict[str, Any]:
        """Return what the one event of this name says."""
        (found,) = self.payloads(name)
        return found

    def payloads(self, name: str) -> list[dict[str, Any]]:
        return [
            msgspec.json.decode(event.payload_json)
            for event in self.events
            if event.event_type == name
        ]

    def problems(self) -> list[str]:
        """Return how the events of the catalog differ from it."""
        return [
            problem
            for event in self.events
            if find(event.event_type) is not None
            for problem in problems_of(
                event.event_type,
                msgspec.json.decode(event.payload_json),
                request_id=event.request_id,
            )
        ]


class Served(NamedTuple):
    spec: FunctionSpec


class Job:
    """One job, as a worker's would be."""

    wants_events = False
    call: RunningCall

    def __init__(self, room: Room, request: JobRequest) -> None:
        self.request = request
        self.served = Served(room.engine.lookup(request.function))
        self._room = room
        self.memory = room.gauge.begin()
        self._ended: asyncio.Future[Result | Failed] = asyncio.get_running_loop().create_future()

    def deliver(self, batch: Sequence[Event]) -> None:
        last = batch[-1]
        if isinstance(last, (Result, Failed)):
            is_good = isinstance(last, Result)
            observation = Observation(
                status="succeeded" if is_good else "failed",
                error_type=last.failure.error_type if isinstance(last, Failed) else "",
                peak_memory_bytes=self._room.gauge.end(self.memory)[0],
            )
            self._room.telemetry.ended(self, last, observation)
            self._ended.set_result(last)

    async def outcome(self) -> Result | Failed:
        return await asyncio.wait_for(asyncio.shield(self._ended), TIMEOUT_S)


class Room:
    """An engine, its telemetry, and what that said."""

    def __init__(self, engine: Engine, telemetry: Telemetry, heard: Heard) -> None:
        self.engine = engine
        self.telemetry = telemetry
        self.heard = heard
        self.gauge = MemoryGauge()

    def submit(self, function: str, payload: dict[str, Any] | None = None, **fields: Any) -> Job:
        fields.setdefault("request_id", "r1")
        request = JobRequest(
            function=function, payload=msgspec.msgpack.encode(payload or {}), **fields
        )
        job = Job(self, request)
        invocation = Invocation(
            function=function,
            payload=request.payload,
            payload_format="msgpack",
            result_format="msgpack",
            request_id=request.request_id,
            hints=request.hints,
        )
        self.telemetry.began(job)
        job.call = self.engine.submit(invocation, job)
        return job

    async def run(self, function: str, payload: dict[str, Any] | None = None, **fields: Any) -> Any:
        return await self.submit(function, payload, **fields).outcome()

    async def until(self, name: str) -> dict[str, Any]:
        """Wait for an event and return what it says."""
        async with asyncio.timeout(TIMEOUT_S):
            while name not in self.heard.names():
                await asyncio.sleep(0.002)
        return self.heard.payloads(name)[0]


@pytest.fixture
def watched(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Room]]:
    """Start an engine whose jobs are reported on; keywords are those of `Telemetry`."""

    @asynccontextmanager
    async def start(
        *functions: object,
        models: Any = None,
        heard: Heard | None = None,
        clock: Clock | None = None,
        ports: Callable[[Sequence[FunctionSpec]], Ports] | None = None,
        **options: Any,
    ) -> AsyncIterator[Room]:
        specs = [spec for function in functions for spec in specs_of(function)]
        heard = heard or Heard()
        clock = clock or VirtualClock()  # with the machine's, a busy one would make calls long
        telemetry = Telemetry(heard, shed=lambda: heard.shed, clock=clock, **options)
        host = ports(specs) if ports else fake_ports(tmp_path, specs, models)
        engine = Engine(specs, telemetry.watch(host), clock=clock)
        try:
            yield Room(engine, telemetry, heard)
        finally:
            await engine.close()
            telemetry.close()
            assert heard.problems() == []

    return start


@pytest.fixture
def heard() -> Heard:
    return Heard()
