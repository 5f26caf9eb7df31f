"""The scheduler's end of the worker protocol: who is let in, what is told, what breaks."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import grpc.aio
import pytest

from gen_worker.errors import AuthError, InputTooLargeError, SettingsError
from gen_worker.runtime.auth import Claims, KeysUnavailableError
from gen_worker.runtime.scheduler.gateway import (
    Gateway,
    GatewayHandler,
    GatewayOptions,
    ListenError,
    Session,
)
from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    MAX_RECEIVE_BYTES,
    METHODS,
    InterruptJob,
    JobRequest,
    JobResult,
    LoadModelResult,
    Registration,
    Resources,
    TokenDelta,
    UnencodableMessageError,
    WorkerEvent,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gen_worker.runtime.wire import Message, StreamRole

M = TypeVar("M")

PATIENCE_S = 30.0


class Log(GatewayHandler):
    """A scheduler that writes down what it is told."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.registrations: list[Registration] = []
        self.beats: list[Registration] = []
        self.messages: list[Message] = []
        self.losses: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.failure: Exception | None = None

    def registered(self, session: Session, registration: Registration) -> None:
        self.sessions[session.worker_id] = session
        self._note(self.registrations, registration)

    def heartbeat(self, session: Session, registration: Registration) -> None:
        self._note(self.beats, registration)

    def heard(self, session: Session, message: Message) -> None:
        if self.failure is not None:
            raise self.failure
        self._note(self.messages, message)

    def lost(self, session: Session, reason: str) -> None:
        self._note(self.losses, reason)

    def _note(self, notes: list[M], note: M) -> None:
        notes.append(note)
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Wait for something, looked for after everything the gateway says."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                news = asyncio.get_running_loop().create_future()
                self.waiting.append(news)
                await news


class Ended(NamedTuple):
    code: grpc.StatusCode
    details: str

    @property
    def word(self) -> str:
        return self.details.partition(":")[0]


class Peer:
    """One stream of a worker, byte by byte."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, *messages: Message | bytes) -> None:
        """Say something, unless the other end has ended the stream; `end` tells then."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for message in messages:
                await self.call.write(message if isinstance(message, bytes) else encode(message))

    async def read(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            data = await self.call.read()
        assert isinstance(data, bytes), "the stream has ended"
        return data

    async def end(self) -> Ended:
        """Wait until the other end ends it, and say how."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.call.code()
            return Ended(code, await self.call.details() or "")


def registration(worker_id: str = "w1", **fields: Any) -> Registration:
    return Registration(resources=Resources(worker_id=worker_id), **fields)


@asynccontextmanager
async def peer(
    gateway: Gateway, role: StreamRole = "control", *said: Message | bytes, token: str = ""
) -> AsyncIterator[Peer]:
    """Open one stream and say something; it breaks at the end of the block."""
    metadata = (("authorization", token),) if token else ()
    async with grpc.aio.insecure_channel(gateway.address, options=CHANNEL_OPTIONS) as channel:
        call: Any = channel.stream_stream(METHODS[role])(metadata=metadata)
        one = Peer(call)
        try:
            await one.say(*said)
            yield one
        finally:
            call.cancel()


@asynccontextmanager
async def serving(handler: GatewayHandler, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway("127.0.0.1:0", handler, **options)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


REGISTRATION = registration()
BEAT = registration(is_heartbeat=True)


def result(number: int) -> JobResult:
    return JobResult(request_id=f"r{number}", success=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- what a worker says, and is told


async def test_a_worker_of_one_stream_is_heard_and_commanded() -> None:
    log = Log()
    async with (
        serving(log) as gateway,
        peer(gateway, "control", registration(in_flight_request_ids=("r7",))) as worker,
    ):
        await log.until(lambda: log.registrations)
        assert log.registrations[0].in_flight_request_ids == ("r7",)
        session = log.sessions["w1"]
        assert session.is_connected
        assert session.send(JobRequest(request_id="r1", function="f"))
        assert session.send(encode(InterruptJob(request_id="r1")))
        assert decode(await worker.read()) == JobRequest(request_id="r1", function="f")
        assert decode(await worker.read()) == InterruptJob(request_id="r1")
        said: list[Message] = [
            TokenDelta(request_id="r1", sequence=1, delta_text="a"),
            WorkerEvent(event_type="x"),
            result(1),
            LoadModelResult(model_id="m", success=True),
        ]
        await worker.say(*said, BEAT)
        await log.until(lambda: log.beats)
        assert log.messages == said
        figures = session.statistics()
        assert (figures.connections, figures.heard, figures.sent) == (1, 6, 2)
        assert (figures.unwritten, figures.unwritten_bytes) == (0, 0)


async def test_three_streams_are_one_worker() -> None:
    log = Log()
    hello = {
        role: registration(is_heartbeat=True, stream_role=role) for role in ("results", "events")
    }
    async with (
        serving(log) as gateway,
        peer(gateway, "results", hello["results"]) as results,  # before control: streams race
        peer(gateway, "control", registration(stream_role="control")),
        peer(gateway, "events", hello["events"]) as events,
    ):
        await results.say(result(1))
        await events.say(WorkerEvent(event_type="x"))
        await log.until(lambda: len(log.messages) == 2 and log.registrations)
        assert list(gateway.sessions) == ["w1"]
        assert gateway.sessions["w1"].streams == {"results": 1, "control": 1, "events": 1}
        assert not log.beats  # a handshake is none
        assert gateway.statistics().connected == 1


async def test_a_stream_of_heartbeats_takes_no_commands() -> None:
    log = Log()
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        await log.until(lambda: log.registrations)
        async with peer(gateway, "control", BEAT):
            await log.until(lambda: log.beats)
            assert log.sessions["w1"].send(JobRequest(request_id="r1", function="f"))
            assert decode(await worker.read()) == JobRequest(request_id="r1", function="f")
        await worker.say(result(1))
        await log.until(lambda: log.messages)
        assert not log.losses


async def test_what_means_nothing_is_passed_over() -> None:
    log = Log()
    unknown = b"\xc2\x0c\x02hi"
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        await worker.say(unknown, b"", JobRequest(request_id="r", function="f"), result(1))
        await log.until(lambda: log.messages)
        assert log.messages == [result(1)]
        assert log.sessions["w1"].statistics().passed_over == 3


async def test_a_worker_that_leaves_in_order_is_told_that_all_was_read() -> None:
    log = Log()
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        await worker.say(*map(result, range(100)))
        await worker.call.done_writing()
        assert (await worker.end()).code is grpc.StatusCode.OK
        assert len(log.messages) == 100
        assert len(log.losses) == 1
        assert not log.sessions["w1"].is_connected
        assert not log.sessions["w1"].send(JobRequest(request_id="r", function="f"))


# ---- who is not let in


NO_WORKER = Registration()
OTHER_MAJOR = registration(protocol_major=2)
FIRST: list[tuple[StreamRole, Any, str]] = [
    ("control", b"\xff" * 100, "malformed_message"),
    ("control", b"\x0a\xff\xff\xff\xff\x0f", "malformed_message"),
    ("control", b"", "no_registration"),
    ("control", b"\xc2\x0c\x02hi", "no_registration"),
    ("results", result(1), "no_registration"),
    ("control", JobRequest(request_id="r", function="f"), "no_registration"),
    ("control", NO_WORKER, "no_worker_id"),
    ("control", registration("w" * 10_000), "no_worker_id"),
    ("control", OTHER_MAJOR, "unsupported_worker_protocol"),
    ("events", registration(protocol_major=0), "unsupported_worker_protocol"),
    ("results", registration(stream_role="control"), "wrong_stream"),
    ("control", registration(stream_role="x" * 9999), "wrong_stream"),
]


async def test_first_messages_are_refused_in_words_and_others_served() -> None:
    log = Log()
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        for role, first, word in FIRST:
            async with peer(gateway, role, first) as refused:
                ended = await refused.end()
            assert ended.word == word, (first, ended)
            assert ended.code is not grpc.StatusCode.OK
            assert len(ended.details) < 300
        await worker.say(result(1))
        await log.until(lambda: log.messages)
        assert (len(log.registrations), log.losses) == (1, [])
        assert list(gateway.sessions) == ["w1"]
        assert sum(gateway.statistics().refused.values()) == len(FIRST)


async def test_a_malformed_message_ends_its_stream_alone() -> None:
    log = Log()
    hello = registration(is_heartbeat=True, stream_role="events")
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        async with peer(gateway, "events", hello, b"\xff" * 9) as broken:
            ended = await broken.end()
        assert (ended.word, ended.code) == ("malformed_message", grpc.StatusCode.INVALID_ARGUMENT)
        await worker.say(result(1))
        await log.until(lambda: log.messages)
        assert log.sessions["w1"].is_connected


async def test_a_message_that_is_too_long_ends_its_stream_alone() -> None:
    log = Log()
    hello = registration(is_heartbeat=True, stream_role="results")
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        async with peer(gateway, "results", hello, bytes(MAX_RECEIVE_BYTES + 1)) as broken:
            assert (await broken.end()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await worker.say(result(1))
        await log.until(lambda: log.messages)
        assert not log.losses


async def test_a_stream_that_says_nothing_is_not_kept() -> None:
    options = GatewayOptions(first_message_s=0.01)
    async with serving(Log(), options=options) as gateway, peer(gateway) as silent:
        assert (await silent.end()).word == "no_registration"
        assert gateway.statistics().streams == 0


async def test_there_is_room_for_so_many_workers() -> None:
    log = Log()
    options = GatewayOptions(max_sessions=2)
    async with (
        serving(log, options=options) as gateway,
        peer(gateway, "control", registration("a")),
        peer(gateway, "control", registration("b")),
    ):
        await log.until(lambda: len(log.sessions) == 2)
        async with peer(gateway, "control", registration("c")) as third:
            assert (await third.end()).word == "too_many_workers"


async def test_everybody_is_refused_when_the_scheduler_says_so() -> None:
    async with serving(Log()) as gateway:
        gateway.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "not_leader:other:1")
        async with peer(gateway, "control", REGISTRATION) as refused:
            assert await refused.end() == gateway.refusal


# ---- tokens


def verify(token: str) -> Claims:
    if token == "unreachable":
        raise KeysUnavailableError("https://keys", "no answer")
    if token == "nobody":
        return Claims()
    if not token.startswith("good-"):
        raise AuthError("the token is refused: it has expired")
    return Claims(subject=token.removeprefix("good-"), release_id="release-9")


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("", "no_token"),
        ("Basic good-w1", "no_token"),
        ("Bearer bad", "token_refused"),
        ("Bearer nobody", "token_refused"),
        ("Bearer unreachable", "tokens_uncheckable"),
    ],
)
async def test_without_a_good_token_nobody_is_let_in(token: str, word: str) -> None:
    log = Log()
    async with (
        serving(log, verify=verify) as gateway,
        peer(gateway, "control", REGISTRATION, token=token) as refused,
    ):
        ended = await refused.end()
        assert ended.word == word
        assert "good-w1" not in ended.details
        assert not gateway.sessions


async def test_a_worker_is_who_its_token_says() -> None:
    log = Log()
    async with (
        serving(log, verify=verify) as gateway,
        peer(gateway, "control", registration("liar"), token="bearer good-w7"),
    ):
        await log.until(lambda: log.registrations)
        assert list(gateway.sessions) == ["w7"]
        assert gateway.sessions["w7"].release_id == "release-9"


def test_other_machines_are_not_trusted_by_accident() -> None:
    for listen in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80"):
        with pytest.raises(SettingsError, match="check their tokens"):
            Gateway(listen, Log())
        Gateway(listen, Log(), verify=verify)
        Gateway(listen, Log(), options=GatewayOptions(trusts_everyone=True))


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving(Log()) as gateway:
        other = Gateway(gateway.address, Log())
        with pytest.raises(ListenError, match=gateway.address) as caught:
            await other.start()
        assert caught.value.address == gateway.address


# ---- connections that come and go


async def test_a_second_connection_replaces_the_first() -> None:
    log = Log()
    old, new = (registration(stream_started_unix_ms=started) for started in (1000, 2000))
    async with serving(log) as gateway, peer(gateway, "control", old) as first:
        await log.until(lambda: log.registrations)
        async with peer(gateway, "control", new) as second:
            ended = await first.end()
            assert (ended.word, ended.code) == ("replaced", grpc.StatusCode.ABORTED)
            await log.until(lambda: len(log.registrations) == 2)
            session = log.sessions["w1"]
            assert session.connection == 2
            assert session.send(JobRequest(request_id="r", function="f"))
            assert decode(await second.read()) == JobRequest(request_id="r", function="f")
            async with peer(gateway, "control", old) as late:
                assert (await late.end()).word == "stale_connection"
            assert not log.losses
        await log.until(lambda: log.losses)


async def test_a_worker_that_comes_back_has_its_session_still() -> None:
    log, clock = Log(), Clock()
    async with serving(log, clock=clock) as gateway:
        for _ in range(2):
            async with peer(gateway, "control", REGISTRATION):
                await log.until(lambda: len(log.registrations) > len(log.losses))
            await log.until(lambda: len(log.registrations) == len(log.losses))
        session = gateway.sessions["w1"]
        assert session.connection == 2
        clock.now += 599
        gateway.look()
        assert gateway.sessions == {"w1": session}
        clock.now += 1
        gateway.look()
        assert gateway.sessions == {}


async def test_a_worker_that_is_silent_is_lost() -> None:
    log, clock = Log(), Clock()
    async with serving(log, clock=clock) as gateway, peer(gateway, "control", REGISTRATION) as one:
        await log.until(lambda: log.registrations)
        clock.now += 34
        gateway.look()
        gateway.look()
        await one.say(BEAT)
        await log.until(lambda: log.beats)
        clock.now += 36
        gateway.look()  # what it may have said is read first
        await one.say(BEAT)
        await log.until(lambda: len(log.beats) == 2)
        gateway.look()
        clock.now += 36
        gateway.look()
        assert log.sessions["w1"].is_connected
        gateway.look()
        assert not log.sessions["w1"].is_connected
        ended = await one.end()
        assert (ended.word, ended.code) == ("silent", grpc.StatusCode.UNAVAILABLE)
        assert log.losses == [ended.details]


async def test_a_worker_that_is_not_read_is_not_silent() -> None:
    log, clock = Log(), Clock()
    async with serving(log, clock=clock) as gateway, peer(gateway, "control", REGISTRATION) as one:
        await log.until(lambda: log.registrations)
        session = log.sessions["w1"]
        session.pause_reading()
        await one.say(*map(result, range(10)))
        clock.now += 1000
        for _ in range(3):
            gateway.look()
        assert session.is_connected
        assert len(log.messages) <= 1
        session.resume_reading()
        await log.until(lambda: len(log.messages) == 10)
        assert not log.losses


async def test_a_paused_worker_is_held_back() -> None:
    log = Log()
    big = JobResult(request_id="r", success=True, payload=bytes(256 * 1024))
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        await log.until(lambda: log.registrations)
        session = log.sessions["w1"]
        session.pause_reading()
        writing = asyncio.create_task(worker.say(*[big] * 100))
        _, pending = await asyncio.wait([writing], timeout=0.3)
        assert pending  # 25 MiB are more than any window
        assert len(log.messages) <= 1
        session.resume_reading()
        await log.until(lambda: len(log.messages) == 100)
        await writing


async def test_a_worker_that_does_not_read_is_given_no_more() -> None:
    log = Log()
    options = GatewayOptions(max_unwritten_bytes=8 * 1024 * 1024)
    async with serving(log, options=options) as gateway, peer(gateway, "control", REGISTRATION):
        await log.until(lambda: log.registrations)
        session = log.sessions["w1"]
        command = JobRequest(request_id="r", function="f", payload=bytes(1024 * 1024))
        taken = sum(session.send(command) for _ in range(100))
        assert 8 <= taken < 100
        session.close("it does not read")
        await log.until(lambda: log.losses)
        assert log.losses == ["it does not read"]
        assert session.statistics().unwritten == 0


async def test_what_the_wire_cannot_carry_is_the_sender_s_mistake() -> None:
    log = Log()
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION) as worker:
        await log.until(lambda: log.registrations)
        session = log.sessions["w1"]
        with pytest.raises(UnencodableMessageError):
            session.send(JobRequest(request_id="\ud800", function="f"))
        long = bytes(MAX_RECEIVE_BYTES)
        with pytest.raises(InputTooLargeError):
            session.send(JobRequest(request_id="r", function="f", payload=long))
        assert session.send(InterruptJob(request_id="r"))
        assert decode(await worker.read()) == InterruptJob(request_id="r")


async def test_a_scheduler_that_fails_at_a_message_is_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    log.failure = RuntimeError("the disk")
    async with serving(log) as gateway:
        async with peer(gateway, "control", REGISTRATION, result(1)) as worker:
            ended = await worker.end()
        assert (ended.word, ended.code) == ("handler_failed", grpc.StatusCode.INTERNAL)
        assert "disk" not in ended.details
        assert "the disk" in caplog.text
        log.failure = None
        async with peer(gateway, "control", REGISTRATION, result(1)):
            await log.until(lambda: log.messages)
        assert len(log.losses) >= 1


async def test_workers_are_told_that_the_scheduler_stops() -> None:
    log = Log()
    async with serving(log) as gateway, peer(gateway, "control", REGISTRATION, result(1)) as worker:
        await log.until(lambda: log.messages)
        await gateway.stop(PATIENCE_S)
        ended = await worker.end()
        assert (ended.word, ended.code) == ("stopping", grpc.StatusCode.UNAVAILABLE)
        assert log.losses == [ended.details]
        assert gateway.statistics().streams == 0


async def test_a_server_comes_back_on_its_port() -> None:
    log = Log()
    async with serving(log) as gateway:
        address = gateway.address
        async with peer(gateway, "control", REGISTRATION) as worker:
            await log.until(lambda: log.registrations)
            await gateway.stop()
            assert len(log.losses) == 1
            assert (await worker.end()).code is not grpc.StatusCode.OK
        await gateway.start()
        assert gateway.address == address
        async with peer(gateway, "control", REGISTRATION):
            await log.until(lambda: len(log.registrations) == 2)
