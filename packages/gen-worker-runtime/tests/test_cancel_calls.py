"""A canceled call stops wherever it is, says so once, and gives back all it held."""

import asyncio
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference_function
from gen_worker.cancel import CancelToken, Interrupted, shield
from gen_worker.runtime import EngineLimits, Invocation
from gen_worker.testing import EndpointTester

LONG_S = 60.0


class In(msgspec.Struct):
    number: int = 0


class Out(msgspec.Struct):
    number: int


class Trail:
    """What a handler has seen; one per test, reached through the module."""

    def __init__(self) -> None:
        self.marks: list[str] = []
        self.inside = threading.Event()
        self.may_end = threading.Event()


trail = Trail()


@pytest.fixture(autouse=True)
def _new_trail() -> Iterator[None]:
    global trail
    trail = Trail()
    yield
    trail.may_end.set()


@inference_function
def spin(ctx: RequestContext, payload: In) -> Out:
    try:
        trail.inside.set()
        while True:
            pass
    finally:
        trail.marks.append("cleaned")


@inference_function
def spin_items(ctx: RequestContext, payload: In) -> Iterator[Out]:
    try:
        for number in range(10**9):
            yield Out(number)
            trail.inside.set()
    finally:
        trail.marks.append("cleaned")


@inference_function
async def sleep(ctx: RequestContext, payload: In) -> Out:
    try:
        trail.inside.set()
        await asyncio.sleep(60)
        return Out(1)
    finally:
        trail.marks.append("cleaned")


@inference_function
async def sleep_items(ctx: RequestContext, payload: In) -> AsyncIterator[Out]:
    try:
        yield Out(1)
        trail.inside.set()
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        trail.marks.append("cleaned")


@inference_function
async def yield_endlessly(ctx: RequestContext, payload: In) -> AsyncIterator[Out]:
    try:
        while True:
            yield Out(1)
            trail.inside.set()
    finally:
        trail.marks.append("cleaned")


@inference_function
def look(ctx: RequestContext, payload: In) -> Out:
    trail.inside.set()
    try:
        ctx.cancel_event.wait(60)
        return Out(1)
    finally:  # a thread that wakes up late is interrupted where it waits
        trail.marks.append("cleaned")


@inference_function
def wait_for_event(ctx: RequestContext, payload: In) -> Out:
    trail.inside.set()
    try:
        while not trail.may_end.wait(0.02):
            pass
        return Out(1)
    finally:
        trail.marks.append("cleaned")


ENDLESS = [
    spin,
    spin_items,
    sleep,
    sleep_items,
    yield_endlessly,
    look,
    wait_for_event,
]


@pytest.mark.parametrize("function", ENDLESS, ids=lambda f: f.__name__)
def test_a_handler_stops_and_its_cleaning_up_is_done(function: Any) -> None:
    with EndpointTester(function) as tester:
        call = tester.start(function)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        failure = call.wait().failure
        assert failure is not None
        assert (failure.error_type, failure.exit_code) == ("canceled", 130)
        assert trail.marks == ["cleaned"]
        statistics = tester.statistics()
        assert (statistics.canceled, statistics.running, statistics.queued) == (1, 0, 0)
        assert statistics.cancel_latency.count == 1


@pytest.mark.parametrize("function", [spin, spin_items, look], ids=lambda f: f.__name__)
def test_a_deadline_stops_a_handler_in_the_callers_thread(function: Any) -> None:
    """No event loop: the timer's thread cancels, the handler's own thread raises."""
    with EndpointTester(function, is_inline=True) as tester:
        ticking = threading.Thread(
            target=lambda: (trail.inside.wait(LONG_S), tester.clock.advance(1.0))  # type: ignore[func-returns-value]
        )
        ticking.start()
        failure = tester.run(function, timeout_ms=1000).failure
        ticking.join()
        assert failure is not None
        assert (failure.http_status, failure.message) == (504, "deadline exceeded")
        assert trail.marks == ["cleaned"]


def test_a_call_in_the_queue_is_answered_at_once() -> None:
    with EndpointTester(spin, limits=EngineLimits(max_threads=1)) as tester:
        running = tester.start(spin)
        assert trail.inside.wait(LONG_S)
        waiting = tester.start(spin)
        waiting.cancel()
        result = waiting.wait()
        assert result.failure is not None
        assert result.failure.error_type == "canceled"
        assert not result.events, "its handler was never called"
        assert not running.is_done
        running.cancel()
        running.wait()
        assert trail.marks == ["cleaned"]


def test_a_call_waiting_for_a_device_is_answered_at_once() -> None:
    @inference_function(resources=Resources(requires_gpu=True))
    def occupy(ctx: RequestContext, payload: In) -> Out:
        trail.inside.set()
        while True:
            pass

    with EndpointTester(occupy) as tester:
        running, waiting = tester.start(occupy), tester.start(occupy)
        assert trail.inside.wait(LONG_S)
        waiting.cancel()
        assert waiting.wait().failure is not None
        assert not running.is_done
        running.cancel()
        assert running.wait().failure is not None
        # The slot is free again.
        third = tester.start(occupy)
        third.wait_until_started()


def test_a_token_that_was_tripped_before_ends_the_call_without_a_handler() -> None:
    token = CancelToken()
    token.cancel("disconnect")
    with EndpointTester([spin, sleep], is_inline=True) as tester:
        for function in (spin, sleep):
            name = function.__name__
            outcome = tester.engine.run(Invocation(function=name, request_id="1"), token=token)
            assert outcome.failure.error_type == "canceled"  # type: ignore[union-attr]
    assert trail.marks == []


def test_a_canceled_call_is_canceled_whatever_its_handler_raises() -> None:
    @inference_function
    def mangle(ctx: RequestContext, payload: In) -> Out:
        try:
            trail.inside.set()
            while True:
                pass
        except BaseException as error:
            raise ValueError("mangled") from error

    with EndpointTester(mangle) as tester:
        call = tester.start(mangle)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        failure = call.wait().failure
        assert failure is not None
        assert failure.error_type == "canceled"


def test_except_exception_does_not_swallow_an_interrupt() -> None:
    @inference_function
    def careful(ctx: RequestContext, payload: In) -> Out:
        trail.inside.set()
        while True:
            try:
                sum(range(100))
            except Exception:
                trail.marks.append("swallowed")

    with EndpointTester(careful) as tester:
        call = tester.start(careful)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        assert call.wait().failure is not None
    assert trail.marks == []


def test_a_swallowed_interrupt_comes_again() -> None:
    @inference_function
    def stubborn(ctx: RequestContext, payload: In) -> Out:
        while len(trail.marks) < 3:
            try:
                trail.inside.set()
                while True:
                    pass
            except Interrupted:
                trail.marks.append("swallowed")
        return Out(1)

    with EndpointTester(stubborn) as tester:
        call = tester.start(stubborn)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        assert call.wait().failure is not None
    # Three times, unless it came again on the way back into the `try`.
    assert set(trail.marks) == {"swallowed"}


@pytest.mark.parametrize("place", ["finally", "shield"])
def test_what_must_not_be_cut_is_finished_first(place: str) -> None:
    @inference_function
    def protected(ctx: RequestContext, payload: In) -> Out:
        def finish() -> None:
            trail.inside.set()
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                pass
            trail.marks.append("finished")

        if place == "shield":
            with shield():
                finish()
        else:
            try:
                len(())
            finally:
                finish()
        while True:
            pass

    with EndpointTester(protected) as tester:
        call = tester.start(protected)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        assert call.wait().failure is not None
    assert trail.marks == ["finished"]


def test_a_blocking_wait_stops_when_it_returns() -> None:
    gate: queue.SimpleQueue[None] = queue.SimpleQueue()

    @inference_function
    def wait(ctx: RequestContext, payload: In) -> Out:
        trail.inside.set()
        gate.get()
        trail.marks.append("waited")
        return Out(1)

    with EndpointTester(wait) as tester:
        call = tester.start(wait)
        assert trail.inside.wait(LONG_S)
        call.cancel()
        interrupter = tester.engine._core.interrupter
        # Until it was thrown; if before the wait, all is over.
        wait_until(lambda: call.is_done or any(p.due > p.since for p in interrupter._pending))
        gate.put(None)
        assert call.wait().failure is not None
    assert trail.marks == []


class TestStuck:
    """A handler that ignores everything is reported, counted, and does not shrink the pool."""

    def test_a_thread(self, caplog: pytest.LogCaptureFixture) -> None:
        @inference_function
        def ignore(ctx: RequestContext, payload: In) -> Out:
            with shield():
                trail.inside.set()
                trail.may_end.wait(60)
            return Out(1)

        @inference_function
        def answer(ctx: RequestContext, payload: In) -> Out:
            return Out(2)

        limits = EngineLimits(max_threads=1, grace_s=5.0)
        with EndpointTester([ignore, answer], limits=limits) as tester:
            call = tester.start(ignore)
            assert trail.inside.wait(LONG_S)
            call.cancel()
            tester.clock.advance(5.0)
            result = call.wait()
            assert result.failure is not None
            assert result.failure.error_type == "canceled"
            assert "did not stop within 5 s" in result.failure.message
            assert result.timings.compute_ms > 0, "it has run, though it has not ended"
            event = result.events[-1]
            assert event.type == "request.inference.stuck"
            assert event.payload["function_name"] == "ignore"
            assert tester.statistics().stuck_threads == 1
            assert "'ignore' (request 'test" in caplog.text
            assert "goes on 5 s after its cancel and keeps what it holds" in caplog.text
            # The only thread is stuck, and a call is served all the same.
            assert tester.run(answer).value == Out(2)
            trail.may_end.set()
            wait_until(lambda: tester.statistics().stuck_threads == 0)
            assert call.wait().failure == result.failure, "its late result changes nothing"

    def test_a_task(self) -> None:
        @inference_function
        async def ignore(ctx: RequestContext, payload: In) -> Out:
            trail.inside.set()
            while not trail.may_end.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    trail.marks.append("canceled")
            return Out(1)

        with EndpointTester(ignore, limits=EngineLimits(grace_s=4.0)) as tester:
            call = tester.start(ignore)
            assert trail.inside.wait(LONG_S)
            call.cancel()
            for expected in (1, 2, 3, 4):
                wait_until(lambda n=expected: len(trail.marks) == n)
                tester.clock.advance(1.0)
            assert "did not stop" in getattr(call.wait().failure, "message", "")
            assert call.wait().timings.compute_ms > 0, "it has run, though it has not ended"
            assert tester.statistics().stuck_threads == 1
            trail.may_end.set()
            wait_until(lambda: tester.statistics().stuck_threads == 0)

    def test_its_device_stays_taken_until_it_ends(self) -> None:
        @inference_function(resources=Resources(requires_gpu=True))
        def ignore(ctx: RequestContext, payload: In) -> Out:
            with shield():
                trail.inside.set()
                trail.may_end.wait(60)
            return Out(payload.number)

        with EndpointTester(ignore, limits=EngineLimits(grace_s=1.0)) as tester:
            stuck = tester.start(ignore)
            assert trail.inside.wait(LONG_S)
            stuck.cancel()
            tester.clock.advance(1.0)
            assert stuck.wait().failure is not None
            waiting = tester.start(ignore, {"number": 7})
            wait_until(lambda: tester.statistics().queued == 1)
            trail.may_end.set()
            assert waiting.wait().value == Out(7)


def test_closing_cancels_what_runs() -> None:
    with EndpointTester([spin, sleep]) as tester:
        calls = [tester.start(spin), tester.start(sleep)]
        for call in calls:
            call.wait_until_started()
    for call in calls:
        failure = call.wait().failure
        assert failure is not None
        assert failure.error_type == "canceled"
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("gen-worker")])


def test_a_caller_that_stops_waiting_cancels_its_call() -> None:
    async def test() -> None:
        async with EndpointTester(sleep) as tester:
            engine = tester.engine
            task = asyncio.create_task(engine.call(Invocation(function="sleep", request_id="1")))
            while not trail.inside.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not trail.marks:
                await asyncio.sleep(0.001)
            await engine.close()

    asyncio.run(test())
    assert trail.marks == ["cleaned"]


@inference_function
def sleep_blocking(ctx: RequestContext, payload: In) -> Out:
    trail.inside.set()
    time.sleep(60)
    return Out(1)


@pytest.mark.parametrize("function", [spin, spin_items, sleep_blocking, sleep, wait_for_event])
def test_a_signal_interrupts_what_runs_in_the_main_thread(function: Any) -> None:
    with EndpointTester(function, is_inline=True) as tester:
        caught: list[bool] = []
        main = threading.get_ident()

        def on_signal(number: int, frame: Any) -> None:
            try:
                caught.append(tester.engine.interrupt_from_signal(frame))
            except Interrupted:
                caught.append(True)
                raise

        def send() -> None:
            trail.inside.wait(LONG_S)
            time.sleep(0.05)  # CPython does not see a signal that comes right before it blocks
            signal.pthread_kill(main, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, on_signal)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            failure = tester.run(function).failure
        finally:
            sender.join()
            signal.signal(signal.SIGUSR1, before)
        assert failure is not None
        assert (failure.error_type, failure.exit_code) == ("canceled", 130)
        assert caught == [True]


def test_a_signal_with_nothing_running() -> None:
    with EndpointTester(spin, is_inline=True) as tester:
        assert tester.engine.interrupt_from_signal(None) is False


def wait_until(condition: Any) -> None:
    """Wait for something that nobody announces."""
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_a_call_may_share_the_token_of_another_one() -> None:
    """Canceling a call cancels those made on its behalf."""
    with EndpointTester([look, sleep]) as tester:
        parent = tester.start(look)
        parent.wait_until_started()
        engine, done = tester.engine, threading.Event()
        running = engine._core.admission.calls[parent.request_id]
        outcomes: list[Any] = []

        def child() -> None:
            invocation = Invocation(function="look", request_id="child")
            outcomes.append(engine.run(invocation, token=running.token))
            done.set()

        threading.Thread(target=child).start()
        tester.events.wait_for(lambda e: e.request_id == "child")
        parent.cancel()
        assert done.wait(LONG_S)
        assert outcomes[0].failure.error_type == "canceled"
