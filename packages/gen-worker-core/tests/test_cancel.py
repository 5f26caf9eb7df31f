from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gen_worker.cancel import CancelReason, CancelToken, Interrupted, is_shielded, shield
from gen_worker.errors import CanceledError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def test_a_token_is_open_until_canceled_and_the_first_reason_stays() -> None:
    token = CancelToken()
    assert (token.is_canceled, token.reason, token.canceled_at) == (False, None, None)
    token.raise_if_canceled()
    before = time.perf_counter()
    assert token.cancel("disconnect")
    assert not token.cancel("deadline")
    assert (token.is_canceled, token.reason) == (True, "disconnect")
    assert token.canceled_at is not None
    assert before <= token.canceled_at <= time.perf_counter()


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("caller", CanceledError),
        ("disconnect", CanceledError),
        ("shutdown", CanceledError),
        ("interrupt", CanceledError),
        ("deadline", DeadlineExceededError),
    ],
)
def test_the_error_says_why(reason: CancelReason, error: type[CanceledError]) -> None:
    token = CancelToken()
    token.cancel(reason)
    with pytest.raises(error) as caught:
        token.raise_if_canceled()
    assert type(caught.value) is error
    with pytest.raises(error, match="stopped at step 3"):
        token.raise_if_canceled("stopped at step 3")


def test_repr_shows_the_state() -> None:
    token = CancelToken()
    assert repr(token) == "<CancelToken open>"
    token.cancel("deadline")
    assert repr(token) == "<CancelToken deadline>"


def test_the_event_is_set_whether_it_was_asked_for_before_or_after() -> None:
    early, late = CancelToken(), CancelToken()
    event = early.event
    assert event is early.event
    assert not event.is_set()
    early.cancel()
    late.cancel()
    assert event.is_set()
    assert late.event.is_set()


def test_waiting_ends_with_the_cancel_or_the_timeout() -> None:
    token = CancelToken()
    assert token.wait(0.001) is False
    waiting = threading.Event()
    answers: list[bool] = []

    def wait() -> None:
        waiting.set()
        answers.append(token.wait(60))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(60)
    token.cancel()
    thread.join(60)
    assert answers == [True]


def test_callbacks_run_once_in_the_canceling_thread() -> None:
    token = CancelToken()
    threads: list[int] = []
    token.on_cancel(lambda: threads.append(threading.get_ident()))
    canceling = threading.Thread(target=token.cancel)
    canceling.start()
    canceling.join(60)
    token.cancel()
    assert threads == [canceling.ident]


def test_a_callback_given_too_late_runs_at_once() -> None:
    token = CancelToken()
    token.cancel()
    calls: list[int] = []
    token.on_cancel(lambda: calls.append(1))
    assert calls == [1]


def test_a_discarded_callback_does_not_run() -> None:
    token = CancelToken()
    calls: list[str] = []

    def first() -> None:
        calls.append("first")

    def second() -> None:
        calls.append("second")

    token.on_cancel(first)
    token.on_cancel(second)
    token.discard(first)
    token.discard(first)
    token.cancel()
    token.discard(second)
    assert calls == ["second"]


def test_one_callback_that_raises_does_not_keep_others_from_running() -> None:
    token = CancelToken()
    calls: list[int] = []

    def broken() -> None:
        raise LookupError("broken callback")

    token.on_cancel(broken)
    token.on_cancel(lambda: calls.append(1))
    with pytest.raises(LookupError, match="broken callback"):
        token.cancel()
    assert calls == [1]
    assert token.is_canceled


def test_a_callback_may_use_the_token() -> None:
    token = CancelToken()
    seen: list[object] = []

    def callback() -> None:
        token.discard(callback)
        token.on_cancel(lambda: seen.append("late"))
        seen.append((token.cancel(), token.reason, token.event.is_set()))

    token.on_cancel(callback)
    token.cancel("interrupt")
    assert seen == ["late", (False, "interrupt", True)]


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0..count-1)` at the same moment in as many threads."""
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(60)
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def race(token: CancelToken) -> tuple[int, list[int]]:
    """Cancel from four threads while four others add a callback: wins, calls per callback."""
    won: list[bool] = []
    callbacks = [Counter() for _ in range(4)]

    def work(number: int) -> None:
        if number % 2:
            token.on_cancel(callbacks[number // 2])
        else:
            won.append(token.cancel())

    in_threads(8, work)
    return sum(won), [callback.calls for callback in callbacks]


def test_of_many_cancels_at_once_one_wins_and_no_callback_is_lost_or_run_twice() -> None:
    for _ in range(50):
        assert race(CancelToken()) == (1, [1] * 4)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_signal_handler_may_cancel_at_any_moment() -> None:
    """Cancels from a handler that interrupts this very thread inside the token's own methods."""
    current: list[CancelToken] = []

    def handle(_signal: int, _frame: FrameType | None) -> None:
        for token in current:
            token.cancel("interrupt")

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        begun_at = time.monotonic()
        interrupted = 0
        while (passed_s := time.monotonic() - begun_at) < 0.5 or not interrupted:
            assert passed_s < 60, f"no signal came in time ({os.cpu_count()} CPUs)"
            token = CancelToken()
            current[:] = [token]
            callbacks = [Counter() for _ in range(20)]
            for callback in callbacks:
                token.on_cancel(callback)
            interrupted += token.is_canceled
            token.cancel()
            assert [callback.calls for callback in callbacks] == [1] * 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_task_waits_without_a_thread() -> None:
    async def main() -> CancelReason | None:
        token = CancelToken()
        threading.Timer(0.01, token.cancel, ("shutdown",)).start()
        await asyncio.wait_for(token.wait_async(), 60)
        return token.reason

    assert asyncio.run(main()) == "shutdown"


def test_waiting_on_a_canceled_token_returns() -> None:
    async def main() -> None:
        token = CancelToken()
        token.cancel()
        await asyncio.wait_for(token.wait_async(), 60)

    asyncio.run(main())


def test_a_waiter_that_gives_up_leaves_nothing_behind() -> None:
    async def main() -> CancelToken:
        token = CancelToken()
        task = asyncio.create_task(token.wait_async())
        await asyncio.sleep(0)
        assert token._callbacks
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return token

    assert not asyncio.run(main())._callbacks


def test_canceling_after_the_loop_is_closed_does_no_harm() -> None:
    token = CancelToken()
    loop = asyncio.new_event_loop()
    waiter = token.wait_async()
    loop.call_soon(waiter.send, None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert token.cancel()
    waiter.close()


def test_shields_nest_and_belong_to_their_thread() -> None:
    here = threading.get_ident()
    assert not is_shielded(here)
    with shield():
        assert is_shielded(here)
        with shield():
            assert is_shielded(here)
        assert is_shielded(here)
        seen: list[bool] = []
        in_threads(1, lambda _: seen.append(is_shielded(threading.get_ident())))
        assert seen == [False]
    assert not is_shielded(here)


def test_a_shield_is_left_by_an_error_too() -> None:
    with pytest.raises(LookupError), shield():
        raise LookupError
    assert not is_shielded(threading.get_ident())


def test_an_interrupt_passes_by_except_exception() -> None:
    def handler() -> None:
        try:
            raise Interrupted
        except Exception:
            pytest.fail("swallowed")

    with pytest.raises(Interrupted):
        handler()
