"""Streams are bounded, whole and in order, however slow their reader is."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker import RequestContext, inference_function
from gen_worker.events import Delta, Event, Failed, Log, Progress, Result
from gen_worker.runtime import Engine, EngineLimits, Invocation, RunningCall
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, fake_ports


class Count(msgspec.Struct):
    upto: int


class Item(msgspec.Struct):
    number: int


class Meter:
    """How far the generator of a test has come."""

    produced = 0
    closed = threading.Event()


@pytest.fixture(autouse=True)
def _reset_meter() -> None:
    Meter.produced, Meter.closed = 0, threading.Event()


@inference_function
def count(ctx: RequestContext, payload: Count) -> Iterator[Item]:
    try:
        for number in range(payload.upto):
            Meter.produced += 1
            yield Item(number)
    finally:
        Meter.closed.set()


@inference_function
async def count_async(ctx: RequestContext, payload: Count) -> AsyncIterator[Item]:
    try:
        for number in range(payload.upto):
            Meter.produced += 1
            yield Item(number)
    finally:
        Meter.closed.set()


BOTH = pytest.mark.parametrize("function", [count, count_async], ids=["sync", "async"])


class Reader:
    """A transport that keeps what it gets."""

    def __init__(self, *, wants_events: bool = False) -> None:
        self.wants_events = wants_events
        self.batches: list[list[Event]] = []
        self.ended = asyncio.Event()
        self.thread = threading.get_ident()

    def deliver(self, batch: Sequence[Event]) -> None:
        assert threading.get_ident() == self.thread, "only on the loop"
        assert not self.ended.is_set(), "nothing comes after the outcome"
        assert batch
        self.batches.append(list(batch))
        if isinstance(batch[-1], (Result, Failed)):
            self.ended.set()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    @property
    def numbers(self) -> list[int]:
        return [event.value.number for event in self.events if isinstance(event, Delta)]


def on_loop(function: Any, test: Callable[[Engine], Any], **limits: Any) -> None:
    """Run a test on an event loop, with an engine of its own."""

    async def run() -> None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as directory:
            ports = fake_ports(Path(directory))
            engine = Engine(specs_of(function), ports, limits=EngineLimits(**limits))
            try:
                await asyncio.wait_for(test(engine), 60)
            finally:
                await engine.close()

    asyncio.run(run())


def submit(engine: Engine, reader: Reader, upto: int, **fields: Any) -> RunningCall:
    name = next(iter(engine.functions))
    payload = msgspec.json.encode(Count(upto))
    return engine.submit(
        Invocation(function=name, payload=payload, request_id="1", **fields), reader
    )


async def held_back(at_least: int) -> int:
    """Return how much was produced: so much, and what came in the moment after it."""
    while Meter.produced < at_least:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # long enough for a generator that nothing holds back
    return Meter.produced


def let_it_grow(call: RunningCall) -> None:
    """Have the buffer be as large as it may be: it begins small and grows when it is emptied."""
    for _ in range(5):
        call.resume()
        call.pause()


@BOTH
def test_ten_thousand_items_arrive_in_order(function: Any) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        submit(engine, reader, 10_000)
        await reader.ended.wait()
        assert reader.numbers == list(range(10_000))
        assert [e.sequence for e in reader.events if isinstance(e, Delta)] == list(range(1, 10_001))
        assert len(reader.batches) < 10_000, "a burst shares one wake-up"

    on_loop(function, test)


@BOTH
def test_a_paused_reader_holds_the_generator_back(function: Any) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, 1000)
        call.pause()
        assert await held_back(16) in (16, 17)
        assert reader.batches == []
        let_it_grow(call)
        taken = len(reader.numbers)
        assert await held_back(taken + 32) - taken in (32, 33)
        assert len(reader.numbers) == taken
        call.resume()
        await reader.ended.wait()
        assert reader.numbers == list(range(1000))

    on_loop(function, test, max_buffered_deltas=32)


@BOTH
def test_the_generator_goes_on_when_half_is_taken(function: Any) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, 1000)
        taken = []
        for _ in range(5):
            call.pause()
            taken.append(len(reader.numbers))
            assert await held_back(taken[-1] + 10) <= taken[-1] + 11
            call.resume()
            call.pause()
        assert sorted(set(taken)) == taken
        call.resume()
        await reader.ended.wait()
        assert reader.numbers == list(range(1000))

    on_loop(function, test, max_buffered_deltas=10)


@BOTH
def test_the_buffer_is_bounded_in_bytes(function: Any) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, 1000, result_format="json")
        call.pause()
        let_it_grow(call)
        taken, least = len(reader.events), len(msgspec.json.encode(Item(1)))
        most = len(msgspec.json.encode(Item(999)))
        assert await held_back(taken + 500 // most) - taken <= 500 // least + 2
        call.resume()
        await reader.ended.wait()
        values = [bytes(e.value) for e in reader.events if isinstance(e, Delta)]
        assert values == [msgspec.json.encode(Item(n)) for n in range(1000)]

    on_loop(function, test, max_buffered_bytes=500)


@BOTH
def test_a_cancel_ends_a_pause(function: Any) -> None:
    """What was produced until then is delivered, then the failure, and the generator is closed."""

    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, 1000)
        call.pause()
        await held_back(16)
        call.token.cancel("disconnect")
        await reader.ended.wait()
        assert reader.numbers == list(range(len(reader.numbers)))
        assert isinstance(reader.events[-1], Failed)
        await asyncio.to_thread(Meter.closed.wait, 30)
        assert Meter.closed.is_set()

    on_loop(function, test, max_buffered_deltas=16)


@BOTH
def test_a_paused_call_that_has_ended_waits_for_its_reader(function: Any) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, 5)
        call.pause()
        await asyncio.to_thread(Meter.closed.wait, 30)
        await asyncio.sleep(0.02)
        assert reader.batches == []
        call.resume()
        await reader.ended.wait()
        assert reader.numbers == [0, 1, 2, 3, 4]

    on_loop(function, test)


@BOTH
@settings(max_examples=15)
@given(
    total=st.integers(0, 300),
    capacity=st.integers(1, 40),
    pauses=st.lists(st.floats(0, 0.003), max_size=8),
)
def test_whatever_the_pauses_nothing_is_lost(
    function: Any, total: int, capacity: int, pauses: list[float]
) -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        call = submit(engine, reader, total)
        for pause in pauses:
            call.pause()
            await asyncio.sleep(pause)
            call.resume()
            await asyncio.sleep(0)
        await reader.ended.wait()
        assert reader.numbers == list(range(total))
        assert isinstance(reader.events[-1], Result)

    on_loop(function, test, max_buffered_deltas=capacity)


def test_an_async_generator_that_never_waits_leaves_the_loop_to_others() -> None:
    async def test(engine: Engine) -> None:
        reader = Reader()
        submit(engine, reader, 20_000)
        turns = 0
        while not reader.ended.is_set():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 100

    on_loop(count_async, test)


@inference_function
def report(ctx: RequestContext, payload: Count) -> Iterator[Item]:
    for number in range(payload.upto):
        ctx.log(f"before {number}")
        yield Item(number)
        ctx.progress((number + 1) / payload.upto)


def told(events: list[Event]) -> list[Any]:
    names = {Log: "log", Progress: "progress", Delta: "item", Result: "result"}
    return [names[type(event)] for event in events]


def test_events_keep_their_place_between_the_items() -> None:
    async def test(engine: Engine) -> None:
        reader = Reader(wants_events=True)
        submit(engine, reader, 3)
        await reader.ended.wait()
        assert told(reader.events) == ["log", "item", "progress"] * 3 + ["result"]

    on_loop(report, test)


def test_events_come_inline_too(tmp_path: Any) -> None:
    reader = Reader(wants_events=True)
    engine = Engine(specs_of(report), fake_ports(tmp_path))
    engine.run(Invocation(function="report", request_id="1", payload=b'{"upto":2}'), reader)
    assert told(reader.events) == ["log", "item", "progress"] * 2 + ["result"]
    engine.close_now()


def test_telemetry_nobody_reads_is_shed_and_counted() -> None:
    async def test(engine: Engine) -> None:
        reader = Reader(wants_events=True)
        call = submit(engine, reader, 15)  # as many as find room at first
        call.pause()
        while engine.statistics().shed_events < 20:
            await asyncio.sleep(0.001)
        call.resume()
        await reader.ended.wait()
        assert reader.numbers == list(range(15)), "items are never shed"
        assert told(reader.events).count("log") + told(reader.events).count("progress") == 10

    on_loop(report, test, max_buffered_events=10)


def test_a_reader_that_fails_loses_its_call_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Reader):
        def deliver(self, batch: Sequence[Event]) -> None:
            raise BrokenPipeError("gone")

    async def test(engine: Engine) -> None:
        broken = submit(engine, Broken(), 10**9)
        await asyncio.to_thread(Meter.closed.wait, 30)
        assert broken.token.reason == "disconnect"
        while engine.statistics().running:
            await asyncio.sleep(0.001)
        reader = Reader()
        submit(engine, reader, 3)
        await reader.ended.wait()
        assert reader.numbers == [0, 1, 2]

    on_loop(count, test)
    assert "gone" in caplog.text


def test_an_item_that_is_too_large_fails_the_stream() -> None:
    @inference_function
    def grow(ctx: RequestContext, payload: Count) -> Iterator[Item]:
        yield Item(1)
        yield Item(10**15)

    with EndpointTester(grow, limits=EngineLimits(max_output_delta_bytes=20)) as tester:
        result = tester.run(grow, {"upto": 1}, result_format="json")
        assert len(result.deltas) == 1
        assert result.failure is not None
        assert result.failure.exception == "OutputTooLargeError"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("limit", "expected"), [(0, 5), (3, 3), (5, 5), (9, 5)])
def test_a_stream_ends_early_and_well_at_its_last_item(
    is_async: bool, limit: int, expected: int
) -> None:
    closed: list[str] = []

    @inference_function
    def count(ctx: RequestContext, payload: Count) -> Iterator[Item]:
        try:
            for number in range(5):
                yield Item(number)
        finally:
            closed.append("sync")

    @inference_function
    async def count_async(ctx: RequestContext, payload: Count) -> AsyncIterator[Item]:
        try:
            for number in range(5):
                yield Item(number)
        finally:
            closed.append("async")

    function = count_async if is_async else count
    with EndpointTester(function, limits=EngineLimits(max_deltas=limit)) as tester:
        result = tester.run(function, {"upto": 1})
        assert result.failure is None
        assert [delta.number for delta in result.deltas] == list(range(expected))
    assert closed == ["async" if is_async else "sync"]


class Words(msgspec.Struct):
    text: str = ""
    item_id: str = ""
    number: int = 0
    audio_chunk: bytes = b""


def spoken(item: Words, max_bytes: int, result_format: Any = "json") -> Any:
    @inference_function
    def speak(ctx: RequestContext, payload: Count) -> Iterator[Words]:
        yield item
        yield Words("end")

    limits = EngineLimits(max_output_delta_bytes=max_bytes)
    with EndpointTester(speak, limits=limits) as tester:
        return tester.run(speak, {"upto": 1}, result_format=result_format)


@given(text=st.text(max_size=300), max_bytes=st.integers(80, 200))
@settings(max_examples=25, deadline=None)
def test_plain_text_that_is_too_long_is_divided(text: str, max_bytes: int) -> None:
    result = spoken(Words(text, "b"), max_bytes)
    assert result.failure is None
    items = [msgspec.json.decode(delta, type=Words) for delta in result.deltas]
    assert all(len(delta) <= max_bytes for delta in result.deltas)
    assert "".join(item.text for item in items[:-1]) == text
    assert {item.item_id for item in items[:-1]} == {"b"}


def test_text_that_is_not_all_an_item_says_is_not_divided() -> None:
    assert spoken(Words("x" * 100, number=1), 80).failure.exception == "OutputTooLargeError"
    assert spoken(Words("x" * 100, number=1), 0).failure is None


def test_audio_does_not_count() -> None:
    result = spoken(Words(audio_chunk=b"x" * 1000), 80)
    assert result.failure is None
    assert len(result.deltas) == 2


def test_what_other_threads_report_reaches_the_callers_thread(tmp_path: Any) -> None:
    @inference_function
    def delegate(ctx: RequestContext, payload: Count) -> Item:
        helper = threading.Thread(target=ctx.log, args=("from a helper",))
        helper.start()
        helper.join()
        return Item(1)

    reader = Reader(wants_events=True)
    engine = Engine(specs_of(delegate), fake_ports(tmp_path))
    engine.run(Invocation(function="delegate", request_id="1", payload=b'{"upto":1}'), reader)
    assert told(reader.events) == ["log", "result"]
    engine.close_now()


def test_the_first_item_does_not_wait_for_the_second() -> None:
    may_go_on = threading.Event()

    @inference_function
    def slow(ctx: RequestContext, payload: Count) -> Iterator[Item]:
        yield Item(1)
        may_go_on.wait(30)
        yield Item(2)

    with EndpointTester(slow) as tester:
        items = tester.stream(slow, {"upto": 1})
        assert next(items) == Item(1)
        may_go_on.set()
        assert list(items) == [Item(2)]
