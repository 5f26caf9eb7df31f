"""Deadlines are enforced, by the shorter of two limits, and timers ring at their own moment."""

import threading
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import RequestContext, inference_function
from gen_worker.runtime import SYSTEM_CLOCK, EngineLimits
from gen_worker.runtime.engine.deadlines import Timers
from gen_worker.testing import EndpointTester, VirtualClock


class In(msgspec.Struct):
    pass


class Out(msgspec.Struct):
    remaining_s: float | None


inside = threading.Event()


@inference_function
def wait(ctx: RequestContext, payload: In) -> Out:
    inside.set()
    ctx.cancel_event.wait(60)
    return Out(ctx.time_remaining_s())


@inference_function(timeout_ms=2000)
def limited(ctx: RequestContext, payload: In) -> Out:
    inside.set()
    ctx.cancel_event.wait(60)
    return Out(0)


@inference_function
def remaining(ctx: RequestContext, payload: In) -> Out:
    return Out(ctx.time_remaining_s())


@pytest.fixture(autouse=True)
def _outside() -> None:
    inside.clear()


@pytest.mark.parametrize(
    ("function", "timeout_ms", "expected_s"),
    [(wait, 500, 0.5), (limited, None, 2.0), (limited, 500, 0.5), (limited, 9000, 2.0)],
)
def test_the_shorter_limit_counts(function: Any, timeout_ms: int | None, expected_s: float) -> None:
    with EndpointTester(function) as tester:
        call = tester.start(function, timeout_ms=timeout_ms)
        assert inside.wait(30)
        tester.clock.advance(expected_s - 0.01)
        assert call.token.reason is None
        tester.clock.advance(0.01)
        assert call.token.reason == "deadline"
        failure = call.wait().failure
        assert failure is not None
        assert (failure.exception, failure.http_status, failure.exit_code) == (
            "DeadlineExceededError",
            504,
            1,
        )
        assert (failure.error_type, failure.message) == ("canceled", "deadline exceeded")


def test_each_call_has_a_deadline_of_its_own() -> None:
    with EndpointTester(wait, limits=EngineLimits(max_threads=3)) as tester:
        calls = {ms: tester.start(wait, timeout_ms=ms) for ms in (3000, 1000, 2000)}
        for call in calls.values():
            call.wait_until_started()
        for ms in (1000, 2000, 3000):
            assert [m for m, call in calls.items() if call.token.reason] == [
                m for m in (3000, 1000, 2000) if m < ms
            ]
            tester.clock.advance(1.0)
            assert calls[ms].wait().failure is not None


def test_a_deadline_counts_while_the_call_waits() -> None:
    with EndpointTester(wait, limits=EngineLimits(max_threads=1)) as tester:
        running = tester.start(wait)
        assert inside.wait(30)
        waiting = tester.start(wait, timeout_ms=100)
        tester.clock.advance(0.1)
        result = waiting.wait()
        assert getattr(result.failure, "http_status", None) == 504
        assert not result.events
        assert not running.is_done
        running.cancel()


def test_the_context_knows_what_is_left() -> None:
    with EndpointTester(remaining) as tester:
        assert tester.run(remaining, timeout_ms=1500).value == Out(1.5)
        assert tester.run(remaining).value == Out(None)


def test_real_time_works_too(tmp_path: Any) -> None:
    from gen_worker.runtime import Engine, Invocation
    from gen_worker.spec import specs_of
    from gen_worker.testing import fake_ports

    engine = Engine(specs_of(wait), fake_ports(tmp_path))
    start = time.perf_counter()
    outcome = engine.run(Invocation(function="wait", request_id="1", timeout_ms=50))
    assert time.perf_counter() - start >= 0.05
    assert outcome.failure.http_status == 504  # type: ignore[union-attr]  # it failed
    engine.close_now()


@given(
    delays=st.lists(st.floats(0, 10), max_size=20),
    canceled=st.sets(st.integers(0, 19)),
    steps=st.lists(st.floats(0, 3), max_size=10),
)
def test_timers_ring_once_in_order_and_never_early(
    delays: list[float], canceled: set[int], steps: list[float]
) -> None:
    clock, rung = VirtualClock(), []
    timers = Timers(clock)
    pending = [
        timers.add(delay, lambda index=index: rung.append((index, clock.now())))  # type: ignore[misc]
        for index, delay in enumerate(delays)
    ]
    for index in canceled & set(range(len(delays))):
        pending[index].cancel()
        pending[index].cancel()
    for step in steps:
        clock.advance(step)
    passed = clock.now()
    expected = {i for i, d in enumerate(delays) if d <= passed - 1e-6 and i not in canceled}
    assert expected <= {index for index, _ in rung}
    assert all(now >= delays[index] - 1e-9 for index, now in rung)
    assert [delays[index] for index, _ in rung] == sorted(delays[index] for index, _ in rung)
    assert len({index for index, _ in rung}) == len(rung)
    assert not canceled & {index for index, _ in rung}
    timers.close()


def test_canceled_timers_do_not_pile_up() -> None:
    timers = Timers(VirtualClock())
    keep = timers.add(1000, lambda: None)
    for _ in range(5000):
        timers.add(500, lambda: None).cancel()
    assert len(timers) == 1
    assert len(timers._heap) < 200
    keep.cancel()


def test_a_timer_may_set_another_one() -> None:
    clock, rung = VirtualClock(), []
    timers = Timers(clock)

    def ring() -> None:
        rung.append(clock.now())
        if len(rung) < 3:
            timers.add(1.0, ring)

    timers.add(1.0, ring)
    clock.advance(10)
    assert rung == [1.0, 2.0, 3.0]


def test_the_system_clock_rings_the_earliest_first() -> None:
    rung: list[str] = []
    early, late = threading.Event(), threading.Event()
    timers = Timers(SYSTEM_CLOCK)
    timers.add(3600.0, lambda: rung.append("much later"))
    timers.add(0.02, late.set)
    timers.add(0.01, early.set)
    assert early.wait(30)
    assert late.wait(30)
    timers.close()
    timers.add(0.0, lambda: rung.append("never"))
    assert rung == []


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        VirtualClock().advance(-1)


@pytest.mark.parametrize("timeout_ms", [10**30, 10**400, float("inf"), float("nan")])
def test_a_limit_beyond_all_time_is_none_and_harms_no_other(timeout_ms: Any) -> None:
    with EndpointTester(wait, limits=EngineLimits(max_threads=2)) as tester:
        endless = tester.start(wait, timeout_ms=timeout_ms)
        endless.wait_until_started()
        short = tester.start(wait, timeout_ms=1000)
        tester.clock.advance(1.0)
        assert short.token.reason == "deadline"
        tester.clock.advance(1_000_000.0)
        assert endless.token.reason is None
        endless.cancel()


@pytest.mark.parametrize("delay_s", [1e27, float("inf"), float("nan")])
def test_a_moment_beyond_all_time_leaves_the_timers_alive(delay_s: float) -> None:
    rung = threading.Event()
    timers = Timers(SYSTEM_CLOCK)
    for _ in range(3):
        timers.add(delay_s, rung.clear)
    timers.add(0.0, rung.set)
    assert rung.wait(30)
    timers.add(0.01, rung.clear)
    second = threading.Event()
    timers.add(0.02, second.set)
    assert second.wait(30)
    assert not rung.is_set()
    assert len(timers) == 3
    timers.close()


def test_a_callback_that_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    clock, rung = VirtualClock(), []
    timers = Timers(clock)

    def fail() -> None:
        raise RuntimeError("no")

    timers.add(1.0, fail)
    timers.add(1.0, lambda: rung.append(clock.now()))
    timers.add(2.0, lambda: rung.append(clock.now()))
    clock.advance(2.0)
    assert rung == [1.0, 2.0]
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["failed"]


@inference_function
def unruly(ctx: RequestContext, payload: In) -> Out:
    def fail() -> None:
        raise RuntimeError("no")

    ctx.cancel_token.on_cancel(fail)
    inside.set()
    ctx.cancel_event.wait(60)
    return Out(None)


def test_an_authors_callback_that_raises_keeps_nobodys_deadline_from_coming(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with EndpointTester([unruly, wait], limits=EngineLimits(max_threads=2)) as tester:
        first = tester.start(unruly, timeout_ms=1000)
        assert inside.wait(30)
        second = tester.start(wait, timeout_ms=1000)
        third = tester.start(wait, timeout_ms=2000)
        tester.clock.advance(1.0)
        tester.clock.advance(1.0)
        for call in (first, second, third):
            assert getattr(call.wait().failure, "http_status", None) == 504
    assert [record.exc_text for record in caplog.records if "no" in (record.exc_text or "")]
