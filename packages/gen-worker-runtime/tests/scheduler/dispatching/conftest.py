"""A scheduler without an API, and workers that say exactly what a test wants, over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio
import msgspec
import pytest

from gen_worker.errors import UnknownFunctionError
from gen_worker.manifest import LockedFunction
from gen_worker.resources import Resources
from gen_worker.runtime.scheduler import Ledger, LedgerOptions, Policy, Submission
from gen_worker.runtime.scheduler.catalog import FunctionFacts
from gen_worker.runtime.scheduler.dispatcher import Dispatcher, DispatchOptions, Equipment
from gen_worker.runtime.scheduler.gateway import Gateway, GatewayOptions
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.requests import RequestOptions, Requests, RetryPolicy
from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    EndpointConfig,
    JobRequest,
    JobResult,
    Observation,
    Registration,
    StreamDone,
    TokenDelta,
    decode,
    encode,
)
from gen_worker.runtime.wire import Resources as Reported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from gen_worker.runtime.scheduler.requests import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent
    from gen_worker.runtime.wire import Message, StreamRole

M = TypeVar("M")

PATIENCE_S = 30.0
RAN = Observation(runtime_ms=5, peak_memory_bytes=1 << 20, status="succeeded")
_ROLES: tuple[StreamRole, ...] = ("control", "results", "events")

EASY_OPTIONS = DispatchOptions(
    policy=Policy(settle_s=0.0),
    never_after_s=0.0,
    reunion_s=0.0,
    lost_after_s=PATIENCE_S,
    unsent_s=0.05,
)
EASY_RETRIES = RetryPolicy(first_delay_s=0.01, jitter=0.0)


class Functions:
    """What releases say; a function nobody described needs nothing."""

    def __init__(self, described: Mapping[str, dict[str, Any]]) -> None:
        self._described = described
        self._known: dict[str, FunctionFacts] = {}

    def known(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts | None:
        return self._known.get(function)

    async def facts(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts:
        if function == "unknown":
            raise UnknownFunctionError(f"there is no function {function!r}")
        self._known[function] = facts = FunctionFacts(
            owner=owner,
            endpoint=endpoint,
            release_id=release_id,
            function=function,
            locked=LockedFunction(name=function, module="paint"),
            **self._described.get(function, {}),
        )
        return facts


class Clothes:
    """An outfit that gives everybody the same."""

    async def outfit(self, live: Live, state: WorkerState, payload: bytes) -> Equipment:
        return Equipment(file_base_url="http://files", capability_token=f"for {live.request_id}")

    def config(self, state: WorkerState) -> EndpointConfig:
        return EndpointConfig()


GPU = {"resources": Resources(requires_gpu=True)}
STREAM = {"output_mode": "incremental"}


class Eye:
    """Follows one request to its end."""

    def __init__(self) -> None:
        self.record: RequestRecord | None = None
        self.news = asyncio.Event()

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        self.record = record
        self.news.set()


class Platform:
    """Ledger, requests, dispatcher and gateway, as the scheduler puts them together."""

    ledger: Ledger
    requests: Requests
    dispatcher: Dispatcher
    gateway: Gateway

    def __init__(self) -> None:
        self.eyes: dict[str, Eye] = {}

    async def submit(
        self,
        request_id: str,
        function: str = "echo",
        payload: Mapping[str, Any] | None = None,
        *,
        refs: tuple[str, ...] = (),
        **fields: Any,
    ) -> RequestRecord:
        submission = Submission(
            request_id=request_id,
            owner="caller",
            endpoint="paint",
            function=function,
            payload=msgspec.msgpack.encode(payload or {}),
            **fields,
        )
        options = JobOptions(endpoint_owner="acme", refs=refs)
        submitted = await self.requests.submit(submission, options)
        self.follow(submitted.record)
        return submitted.record

    def follow(self, record: RequestRecord) -> None:
        """Have `until` and `end` know of a request, also one of an earlier process."""
        eye = self.eyes[record.request_id] = Eye()
        eye.record = record
        if not self.requests.watch(record.seq, eye):
            eye.news.set()

    async def until(self, request_id: str, is_so: Callable[[RequestRecord], bool]) -> RequestRecord:
        """Wait for something about a request that is on disk."""
        eye = self.eyes[request_id]
        async with asyncio.timeout(PATIENCE_S):
            while True:
                eye.news.clear()
                record = await self.ledger.record(request_id)
                assert record is not None
                if is_so(record):
                    return record
                if eye.record is not None and is_so(eye.record):
                    return eye.record
                await eye.news.wait()

    async def end(self, request_id: str) -> RequestRecord:
        """Wait until a request has ended."""
        return await self.until(request_id, lambda record: record.ending is not None)

    async def output(self, request_id: str) -> Any:
        """Wait for success and return what the client is shown as the output."""
        record = await self.end(request_id)
        assert record.status == "succeeded", record.ending
        events = await self._events(record)
        return msgspec.json.decode(events[-1].data)["output"]

    async def events(self, request_id: str) -> list[tuple[str, Any]]:
        record = await self.ledger.record(request_id)
        assert record is not None
        events = await self._events(record)
        return [(one.name.decode(), msgspec.json.decode(one.data)) for one in events]

    async def _events(self, record: RequestRecord) -> Sequence[StoredEvent]:
        return await self.ledger.events(record.seq, limit=1 << 30, max_bytes=1 << 30)

    async def seen(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that happens on this loop; looked for as often as it turns."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def scheduling(
    folder: Path,
    *,
    described: Mapping[str, dict[str, Any]] | None = None,
    options: DispatchOptions = EASY_OPTIONS,
    requests: RequestOptions | None = None,
    gateway: GatewayOptions | None = None,
    address: str = "127.0.0.1:0",
    outfit: Any = None,
    **own: Any,
) -> AsyncIterator[Platform]:
    platform = Platform()
    functions = Functions(described or {})
    async with AsyncExitStack() as stack:
        platform.ledger = ledger = await Ledger.open(folder, LedgerOptions())
        stack.push_async_callback(ledger.close)
        dispatcher = Dispatcher(functions, outfit or Clothes(), ledger, options=options, **own)
        platform.dispatcher = dispatcher
        requests = requests or RequestOptions(retries=EASY_RETRIES, cancel_grace_s=PATIENCE_S)
        platform.requests = Requests(ledger, requests, clock=dispatcher.clock)
        platform.requests.runner = dispatcher
        await platform.requests.start()
        stack.push_async_callback(platform.requests.close)
        await dispatcher.start(platform.requests)
        stack.push_async_callback(dispatcher.close)
        platform.gateway = Gateway(address, dispatcher, options=gateway or GatewayOptions())
        await platform.gateway.start()
        stack.push_async_callback(platform.gateway.stop)
        yield platform


class Puppet:
    """A worker that says what a test has it say, on three streams or one."""

    def __init__(self, worker_id: str, gateway: Gateway, *, is_split: bool, **facts: Any) -> None:
        self.worker_id = worker_id
        self.facts: dict[str, Any] = {"available_functions": ("echo",), **facts}
        self.commands: asyncio.Queue[Message] = asyncio.Queue()
        self._address = gateway.address
        self._is_split = is_split
        self._stack = AsyncExitStack()
        self._calls: dict[StreamRole, Any] = {}
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, *in_flight: str) -> Self:
        """Open its streams, and say which requests it has."""
        self._stack = AsyncExitStack()
        for role in _ROLES if self._is_split else _ROLES[:1]:
            channel = await self._stack.enter_async_context(
                grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
            )
            call: Any = channel.stream_stream(METHODS[role])()
            self._stack.callback(call.cancel)
            self._calls[role] = call
            first = self.registration(is_heartbeat=role != "control", stream_role=role)
            if role == "control":
                first = msgspec.structs.replace(first, in_flight_request_ids=in_flight)
            await call.write(encode(first))
        self._reader = asyncio.create_task(self._read(self._calls["control"]))
        return self

    def registration(self, **fields: Any) -> Registration:
        resources = Reported(worker_id=self.worker_id, **self.facts)
        return Registration(resources=resources, **fields)

    async def _read(self, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            while isinstance(data := await call.read(), bytes):
                message = decode(data)
                if message is not None:
                    self.commands.put_nowait(message)

    async def cut(self) -> None:
        """Lose the connection."""
        if self._reader is not None:
            self._reader.cancel()
        self._calls.clear()
        await self._stack.aclose()

    async def expect(self, kind: type[M]) -> M:
        """Return the next command of a kind; others before it are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(command := await self.commands.get(), kind):
                pass
            return command

    async def job(self, request_id: str = "") -> JobRequest:
        """Return the next job."""
        job = await self.expect(JobRequest)
        assert request_id in ("", job.request_id)
        return job

    async def say(self, *messages: Message, role: StreamRole = "control") -> None:
        call = self._calls.get(role) or self._calls["control"]
        for message in messages:
            await call.write(encode(message))

    async def beat(self, **facts: Any) -> None:
        self.facts |= facts
        await self.say(self.registration(is_heartbeat=True))

    async def answer(self, request_id: str, value: Any = None) -> None:
        await self.say(success(request_id, value), role="results")

    async def refuse(self, request_id: str, error_type: str, *, retryable: bool = False) -> None:
        """Answer as one that has not begun."""
        result = JobResult(
            request_id=request_id,
            success=False,
            error_type=error_type,
            retryable=retryable,
            safe_message="not here",
            observation=Observation(status="failed", error_type=error_type),
        )
        await self.say(result, role="results")

    async def fail(self, request_id: str, error_type: str, *, retryable: bool = False) -> None:
        """Answer as one that has run it."""
        result = JobResult(
            request_id=request_id,
            success=False,
            error_type=error_type,
            retryable=retryable,
            safe_message="it did not work",
            observation=RAN,
        )
        await self.say(result, role="results")

    async def stream(self, request_id: str, *sequences: int) -> None:
        await self.say(*(delta(request_id, one) for one in sequences), role="events")

    async def done(self, request_id: str, sequence: int) -> None:
        await self.say(StreamDone(request_id=request_id, sequence=sequence), role="events")

    async def finish(self, request_id: str) -> None:
        """Give the result of a streamed request."""
        result = JobResult(request_id=request_id, success=True, observation=RAN)
        await self.say(result, role="results")


def success(request_id: str, value: Any = None) -> JobResult:
    payload = msgspec.msgpack.encode({"text": request_id} if value is None else value)
    return JobResult(request_id=request_id, success=True, payload=payload, observation=RAN)


def delta(request_id: str, sequence: int) -> TokenDelta:
    text = f"{sequence} "
    return TokenDelta(
        request_id=request_id,
        sequence=sequence,
        delta_text=text,
        payload_json=msgspec.json.encode({"text": text}),
    )


@asynccontextmanager
async def puppet(
    platform: Platform,
    worker_id: str = "w1",
    *in_flight: str,
    is_split: bool = True,
    **facts: Any,
) -> AsyncIterator[Puppet]:
    """Have a worker that is connected, and known, until the block ends."""
    one = Puppet(worker_id, platform.gateway, is_split=is_split, **facts)
    await one.connect(*in_flight)
    try:
        await one.expect(EndpointConfig)
        yield one
    finally:
        await one.cut()


class Kit:
    """All of this for the tests of one folder."""

    easy = EASY_OPTIONS
    ran = RAN
    gpu: Any = GPU
    streamed: Any = STREAM
    patience_s = PATIENCE_S
    success = staticmethod(success)
    delta = staticmethod(delta)
    puppet = staticmethod(puppet)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, platform: Platform, worker_id: str, **facts: Any) -> Puppet:
        """Return a worker that is not connected yet."""
        return Puppet(worker_id, platform.gateway, is_split=True, **facts)

    def scheduling(self, **options: Any) -> AbstractAsyncContextManager[Platform]:
        """Have a scheduler on the folder until the block ends."""
        return scheduling(self.folder, **options)


@pytest.fixture
def kit(folder: Path) -> Kit:
    return Kit(folder)
