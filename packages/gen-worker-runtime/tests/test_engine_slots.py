"""What runs side by side and what waits: devices, lanes, invokers, threads and queues."""

import asyncio
import random
import sys
import threading
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker import RequestContext, Resources, inference_function, worker_function
from gen_worker.cancel import CancelToken
from gen_worker.runtime import EngineLimits
from gen_worker.runtime.engine.handoff import ThreadWaiter
from gen_worker.runtime.engine.slots import SlotQueue
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, TesterCall


class In(msgspec.Struct):
    text: str = ""


class Out(msgspec.Struct):
    text: str


class Gauge:
    """Counts how many handlers are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.order: list[str] = []
        self.may_end = threading.Event()
        self.entered = threading.Semaphore(0)
        self._lock = threading.Lock()

    def enter(self, text: str = "") -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.order.append(text)
        self.entered.release()

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1


gauge = Gauge()


@pytest.fixture(autouse=True)
def _new_gauge() -> Any:
    global gauge
    gauge = Gauge()
    yield
    gauge.may_end.set()


def stay(ctx: RequestContext, payload: In) -> Out:
    gauge.enter(payload.text)
    try:
        gauge.may_end.wait(60)
        return Out(payload.text)
    finally:
        gauge.leave()


async def stay_async(ctx: RequestContext, payload: In) -> Out:
    gauge.enter(payload.text)
    try:
        while not gauge.may_end.is_set():
            await asyncio.sleep(0.001)
        return Out(payload.text)
    finally:
        gauge.leave()


GPU = Resources(requires_gpu=True)
on_cpu = inference_function(stay)
cpu = specs_of(on_cpu)[0]
# One function each, as decorators mark the function itself.
gpu = msgspec.structs.replace(cpu, name="gpu", resources=GPU)
cpu_async = specs_of(inference_function(stay_async))[0]
gpu_async = msgspec.structs.replace(cpu_async, name="gpu-async", resources=GPU)
sequential = msgspec.structs.replace(cpu, name="sequential", concurrency="sequential")
limited = msgspec.structs.replace(cpu, name="limited", rate_limit_per_invoker=2)

FUNCTIONS = [cpu, gpu, cpu_async, gpu_async, sequential, limited]


def start(tester: EndpointTester, name: str, count: int, **fields: Any) -> list[TesterCall]:
    return [tester.start(name, {"text": str(index)}, **fields) for index in range(count)]


def entered(count: int) -> None:
    for _ in range(count):
        assert gauge.entered.acquire(timeout=30), "too few were let in"


def finish(calls: list[TesterCall]) -> None:
    gauge.may_end.set()
    for call in calls:
        assert call.wait().failure is None


@pytest.mark.parametrize("name", ["gpu", "gpu-async", "sequential"])
def test_one_at_a_time_in_the_order_they_came(name: str) -> None:
    with EndpointTester(FUNCTIONS) as tester:
        calls = start(tester, name, 6)
        entered(1)
        assert tester.statistics().running == 1
        assert tester.statistics().queued == 5
        finish(calls)
        assert gauge.most == 1
        assert gauge.order == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", ["gpu", "gpu-async"])
def test_each_device_has_a_slot_of_its_own(name: str) -> None:
    with EndpointTester(FUNCTIONS, devices=["cuda:0", "cuda:1"]) as tester:
        calls = start(tester, name, 4)
        entered(2)
        assert tester.statistics().queued == 2
        finish(calls)
        assert gauge.most == 2


def test_a_call_runs_on_the_device_it_asks_for() -> None:
    with EndpointTester(FUNCTIONS, devices=["cuda:0", "cuda:1"]) as tester:
        calls = start(tester, "gpu", 3, device="cuda:1")
        entered(1)
        assert tester.statistics().running == 1
        finish(calls)
        failure = tester.run("gpu", device="cuda:7").failure
        assert failure is not None
        assert "'cuda:0', 'cuda:1'" in failure.message


def test_blocking_cpu_functions_do_not_keep_a_device_waiting() -> None:
    """Every CPU thread is taken, and a GPU call runs all the same."""
    with EndpointTester(FUNCTIONS, limits=EngineLimits(max_threads=2)) as tester:
        blocked = start(tester, "stay", 5)
        entered(2)
        on_gpu = start(tester, "gpu", 1)
        entered(1)
        assert gauge.inside == 3
        asynchronous = start(tester, "stay-async", 50)
        entered(50)
        finish(blocked + on_gpu + asynchronous)


def test_no_more_threads_than_the_limit() -> None:
    with EndpointTester(FUNCTIONS, limits=EngineLimits(max_threads=3)) as tester:
        calls = start(tester, "stay", 10)
        entered(3)
        assert tester.statistics().threads == 3
        finish(calls)
        assert gauge.most == 3


def test_no_more_tasks_than_the_limit() -> None:
    with EndpointTester(FUNCTIONS, limits=EngineLimits(max_tasks=3)) as tester:
        calls = start(tester, "stay-async", 10)
        entered(3)
        assert gauge.inside == 3
        finish(calls)
        assert gauge.most == 3


def test_a_full_queue_refuses_and_lives_on() -> None:
    with EndpointTester(FUNCTIONS, limits=EngineLimits(max_threads=1, max_queue=4)) as tester:
        calls = start(tester, "stay", 1)
        entered(1)
        calls += start(tester, "stay", 4)
        failure = tester.run("stay").failure
        assert failure is not None
        assert (failure.error_type, failure.retryable) == ("worker_overloaded", True)
        assert failure.retry_after_s == 1.0
        assert tester.statistics().refused == 1
        finish(calls)
        assert tester.run("stay").failure is None


def test_an_invoker_has_a_share() -> None:
    with EndpointTester(FUNCTIONS) as tester:
        calls = start(tester, "limited", 2, invoker_id="ann")
        entered(2)
        failure = tester.run("limited", invoker_id="ann").failure
        assert failure is not None
        assert failure.error_type == "worker_overloaded"
        calls += start(tester, "limited", 1, invoker_id="bob")
        entered(1)
        finish(calls)
        assert tester.run("limited", invoker_id="ann").failure is None


def test_callers_without_a_name_share_one_share() -> None:
    with EndpointTester(FUNCTIONS) as tester:
        calls = start(tester, "limited", 2)
        entered(2)
        assert tester.run("limited").failure is not None
        finish(calls)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_canceled_every_slot_comes_back(seed: int) -> None:
    """Calls of every kind, canceled at random moments: nothing stays taken."""
    chance = random.Random(seed)
    limits = EngineLimits(max_threads=2, max_tasks=2)
    with EndpointTester(FUNCTIONS, limits=limits, devices=["cuda:0", "cuda:1"]) as tester:
        calls = []
        for index in range(40):
            name = chance.choice(list(tester.engine.functions))
            call = tester.start(name, {"text": str(index)}, invoker_id=str(index))
            calls.append(call)
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.002)
            if chance.random() < 0.7:
                chance.choice(calls).cancel()
        gauge.may_end.set()
        for call in calls:
            failure = call.wait().failure
            assert failure is None or failure.error_type == "canceled"
        core = tester.engine._core
        slots = [device.slot for device in core.devices.by_name.values()] + [core.tasks]
        slots += [plan.lane for plan in tester.engine._registry._plans.values() if plan.lane]
        assert [(slot.taken, slot.waiting) for slot in slots] == [(0, 0)] * len(slots)
        statistics = tester.statistics()
        assert (statistics.running, statistics.queued, statistics.stuck_threads) == (0, 0, 0)
        assert statistics.completed + statistics.canceled == 40
        assert core.admission._rates == {}


class Waiter:
    def __init__(self) -> None:
        self.is_woken = False

    def wake(self) -> None:
        self.is_woken = True

    async def wait(self, token: CancelToken) -> None:
        raise AssertionError


@settings(max_examples=200)
@given(limit=st.integers(1, 4), steps=st.lists(st.sampled_from(["join", "leave", "end"])))
def test_a_slot_queue_is_fair_and_never_over_its_limit(limit: int, steps: list[str]) -> None:
    slots = SlotQueue("s", limit)
    holders: list[Waiter] = []
    waiting: list[Waiter] = []
    for step in steps:
        if step == "join":
            waiter = Waiter()
            (holders if slots.join(waiter) else waiting).append(waiter)
        elif step == "leave" and waiting:
            waiter = waiting.pop(len(waiting) // 2)
            assert slots.leave(waiter)
        elif step == "end" and holders:
            holders.pop(0)
            slots.give_back()
            if waiting:
                assert waiting[0].is_woken, "the first one who came is next"
                holders.append(waiting.pop(0))
                assert not slots.leave(holders[-1]), "it has a slot to give back"
        assert slots.taken == len(holders) <= limit
        assert slots.waiting == len(waiting)
        assert not waiting or slots.taken == limit
        assert not any(waiter.is_woken for waiter in waiting)


def test_no_slot_is_lost_or_given_twice_by_threads_that_hurry() -> None:
    from gen_worker.ports import drive
    from gen_worker.runtime.engine.slots import take

    slots, holders, most = SlotQueue("s", 2), [0] * 2, []
    interval = sys.getswitchinterval()

    def hurry() -> None:
        for _ in range(300):
            drive(take(slots, ThreadWaiter, CancelToken()))
            mine = holders.pop()  # raises when more than two are here
            most.append(len(holders))
            holders.append(mine)
            slots.give_back()

    threads = [threading.Thread(target=hurry) for _ in range(5)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
    finally:
        sys.setswitchinterval(interval)
    assert len(most) == 5 * 300, "everybody had a turn each time, and never more than two at once"
    assert (slots.taken, slots.waiting) == (0, 0)


def test_a_canceled_wait_in_a_thread_leaves_no_slot_behind() -> None:
    from gen_worker.errors import CanceledError
    from gen_worker.ports import drive
    from gen_worker.runtime.engine.slots import take

    slots, token = SlotQueue("s"), CancelToken()
    assert slots.try_take()
    threading.Timer(0.02, token.cancel).start()
    with pytest.raises(CanceledError):
        drive(take(slots, ThreadWaiter, token))
    assert (slots.taken, slots.waiting) == (1, 0)


def test_inline_calls_of_several_threads_share_a_device() -> None:
    with EndpointTester(FUNCTIONS, is_inline=True) as tester:
        threads = [
            threading.Thread(target=tester.run, args=("gpu", {"text": str(n)})) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        entered(1)
        gauge.may_end.set()
        for thread in threads:
            thread.join()
        assert gauge.most == 1
        assert len(gauge.order) == 4


def test_worker_functions_know_sequential() -> None:
    @worker_function()
    def plain(ctx: RequestContext, payload: In) -> Out:
        return Out(payload.text)

    assert specs_of(plain)[0].concurrency is None, "only who asks for it is served one by one"
