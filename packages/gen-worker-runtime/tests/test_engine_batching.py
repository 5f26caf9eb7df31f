"""Calls are collected before they take a slot, and each caller keeps a context and a fate."""

import asyncio
import threading
from typing import Any, ClassVar

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference, inference_function, invocable
from gen_worker.cancel import shield
from gen_worker.errors import RetryableError, ValidationError
from gen_worker.events import Log
from gen_worker.ports import Ports
from gen_worker.runtime import Engine, EngineLimits, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, TesterCall


class In(msgspec.Struct):
    number: int = 0


class Out(msgspec.Struct):
    number: int


class Seen:
    batches: ClassVar[list[list[int]]] = []
    inside = threading.Event()
    may_end = threading.Event()


@pytest.fixture(autouse=True)
def _nothing_seen() -> Any:
    Seen.batches, Seen.inside, Seen.may_end = [], threading.Event(), threading.Event()
    Seen.may_end.set()
    yield
    Seen.may_end.set()


@inference(batch_window_ms=100, max_batch=4, resources=Resources(requires_gpu=True))
class Doubler:
    def setup(self) -> None:
        self.factor = 2

    @invocable
    def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
        Seen.batches.append([item.number for item in payload])
        Seen.inside.set()
        assert Seen.may_end.wait(30)
        for context, item in zip(ctx, payload, strict=True):
            context.log(f"doubling {item.number}")
        return [self.answer(item) for item in payload]

    def answer(self, item: In) -> Any:
        if item.number == 13:
            return ValidationError("13 brings bad luck", path="$.number")
        if item.number == 14:
            return RetryableError("come back later")
        return Out(item.number * self.factor)


@inference_function
def warm(ctx: RequestContext, payload: In) -> Out:
    return Out(0)


def start(tester: EndpointTester, numbers: Any) -> list[TesterCall]:
    return [tester.start("double", {"number": number}) for number in numbers]


@pytest.fixture
def tester() -> Any:
    with EndpointTester(Doubler) as tester:
        tester.setup()
        yield tester


def test_a_full_batch_goes_at_once(tester: EndpointTester) -> None:
    calls = start(tester, range(4))
    assert [call.wait().value for call in calls] == [Out(0), Out(2), Out(4), Out(6)]
    assert Seen.batches == [[0, 1, 2, 3]]


def test_what_keeps_something_of_each_call_is_given_one_at_a_time() -> None:
    class StepCache:
        breaks_cross_request_batching = True

    class Cached(Doubler):
        def setup(self) -> None:
            super().setup()
            self.cache = StepCache()

    cached = inference(batch_window_ms=60_000, max_batch=4)(Cached)
    with EndpointTester(cached) as tester:
        calls = start(tester, range(3))
        assert [call.wait().value for call in calls] == [Out(0), Out(2), Out(4)]
    assert sorted(Seen.batches) == [[0], [1], [2]]


def test_a_window_that_closes_sends_what_there_is(tester: EndpointTester) -> None:
    calls = start(tester, [1, 2])
    tester.clock.advance(0.05)
    assert not any(call.is_done for call in calls)
    tester.clock.advance(0.05)
    assert [call.wait().value for call in calls] == [Out(2), Out(4)]
    assert Seen.batches == [[1, 2]]


def test_calls_join_while_the_batch_waits_for_its_slot(tester: EndpointTester) -> None:
    Seen.may_end.clear()
    first = start(tester, range(4))
    assert Seen.inside.wait(30)
    waiting = start(tester, [5])
    tester.clock.advance(1.0)  # its window is over, and the device is taken
    waiting += start(tester, [6])
    Seen.may_end.set()
    assert [call.wait().value for call in first + waiting][4:] == [Out(10), Out(12)]
    assert Seen.batches == [[0, 1, 2, 3], [5, 6]]


def test_each_caller_has_a_context(tester: EndpointTester) -> None:
    for number, call in enumerate(start(tester, range(4))):
        logs = [event.message for event in call.wait().events if isinstance(event, Log)]
        assert logs == [f"doubling {number}"]


def test_an_exception_in_the_list_fails_its_caller_alone(tester: EndpointTester) -> None:
    good, unlucky, later, other = (call.wait() for call in start(tester, [1, 13, 14, 2]))
    assert (good.value, other.value) == (Out(2), Out(4))
    assert unlucky.failure is not None
    assert (unlucky.failure.error_type, unlucky.failure.path) == ("validation", "$.number")
    assert later.failure is not None
    assert later.failure.retryable


def test_a_wrong_payload_never_gets_into_a_batch(tester: EndpointTester) -> None:
    wrong = tester.start("double", {"number": "x"})
    assert wrong.wait().failure is not None
    calls = start(tester, range(4))
    assert all(call.wait().failure is None for call in calls)


@pytest.mark.parametrize("answer", [[Out(1)], Out(1), None, [], [Out(1), Out(2), Out(3)]])
def test_an_answer_of_another_length_fails_everybody(answer: Any) -> None:
    """Handing one answer to all would show one caller's result to the others."""

    @inference(batch_window_ms=100, max_batch=2)
    class Short:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            return answer  # type: ignore[no-any-return]  # what is tested

    with EndpointTester(Short) as tester:
        for call in start(tester, range(2)):
            failure = call.wait().failure
            assert failure is not None
            assert failure.error_type == "internal"
            assert "got 2 payloads" in failure.detail


def test_an_item_of_another_type_fails_its_caller_alone() -> None:
    @inference(batch_window_ms=100, max_batch=2)
    class Lying:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            return [payload[0], Out(2)]  # type: ignore[list-item]  # what is tested

    with EndpointTester(Lying) as tester:
        results = [call.wait() for call in start(tester, range(2))]
        # Whoever came first into the batch.
        assert [result.failure is None for result in results].count(True) == 1
        assert [result.value for result in results if result.failure is None] == [Out(2)]


def test_what_the_function_raises_fails_everybody() -> None:
    @inference(batch_window_ms=100, max_batch=2)
    class Broken:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            raise ValueError("no")

    with EndpointTester(Broken) as tester:
        failures = [call.wait().failure for call in start(tester, range(2))]
        assert [failure and failure.message for failure in failures] == ["no", "no"]


def test_a_canceled_call_leaves_the_batch(tester: EndpointTester) -> None:
    calls = start(tester, [1, 2])
    calls[0].cancel()
    assert calls[0].wait().failure is not None
    tester.clock.advance(0.1)
    assert calls[1].wait().value == Out(4)
    assert Seen.batches == [[2]]


def test_a_batch_nobody_waits_for_is_not_computed(tester: EndpointTester) -> None:
    calls = start(tester, [1, 2])
    for call in calls:
        call.cancel()
        call.wait()
    tester.clock.advance(0.1)
    later = start(tester, range(4))
    assert all(call.wait().failure is None for call in later)
    assert Seen.batches == [[0, 1, 2, 3]]


def test_a_call_canceled_inside_is_answered_and_the_others_go_on(tester: EndpointTester) -> None:
    Seen.may_end.clear()
    calls = start(tester, range(4))
    assert Seen.inside.wait(30)
    calls[0].cancel()
    assert calls[0].wait().failure is not None
    assert not calls[1].is_done
    Seen.may_end.set()
    assert [call.wait().value for call in calls[1:]] == [Out(2), Out(4), Out(6)]


def test_when_all_callers_are_gone_the_function_is_interrupted() -> None:
    interrupted = threading.Event()

    @inference(batch_window_ms=100, max_batch=2)
    class Endless:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            try:
                Seen.inside.set()
                while True:
                    pass
            finally:
                interrupted.set()

    with EndpointTester(Endless) as tester:
        calls = start(tester, range(2))
        assert Seen.inside.wait(30)
        for call in calls:
            call.cancel()
        for call in calls:
            assert call.wait().failure is not None
        assert interrupted.wait(30)


def test_without_a_loop_a_call_is_a_batch_of_one() -> None:
    with EndpointTester(Doubler, is_inline=True) as tester:
        assert tester.run("double", {"number": 3}).value == Out(6)
        assert tester.run("double", {"number": 13}).failure is not None
    assert Seen.batches == [[3], [13]]


def test_shutdown_waits_for_a_batch_that_everybody_has_left() -> None:
    order: list[str] = []
    is_shut_down = threading.Event()

    @inference(batch_window_ms=100, max_batch=2)
    class Tidy:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            try:
                Seen.inside.set()
                while True:
                    pass
            finally:
                with shield():
                    is_shut_down.wait(0.2)  # long enough for a `shutdown` that does not wait
                order.append("the handler ends")

        def shutdown(self) -> None:
            order.append("shutdown")
            is_shut_down.set()

    with EndpointTester(Tidy) as tester:
        calls = start(tester, range(2))
        assert Seen.inside.wait(30)
    assert order == ["the handler ends", "shutdown"]
    assert all(call.wait().failure for call in calls)


def test_a_batch_that_is_stuck_does_not_keep_the_engine() -> None:
    may_end, is_shut_down = threading.Event(), threading.Event()

    @inference(batch_window_ms=1, max_batch=2)
    class Stubborn:
        def setup(self) -> None: ...

        @invocable
        def double(self, ctx: list[RequestContext], payload: list[In]) -> list[Out]:
            with shield():
                Seen.inside.set()
                assert may_end.wait(60)
            return []

        def shutdown(self) -> None:
            is_shut_down.set()
            may_end.set()

    async def main(engine: Engine) -> None:
        calling = asyncio.create_task(
            engine.call(Invocation(function="double", request_id="1", payload=b"{}"))
        )
        assert await asyncio.to_thread(Seen.inside.wait, 30)
        await asyncio.wait_for(engine.close(grace_s=60), 50)
        assert (await calling).failure.error_type == "canceled"  # type: ignore[union-attr]

    ports = Ports(files=None, events=_Silence(), models=None)  # type: ignore[arg-type]  # unused
    asyncio.run(main(Engine(specs_of(Stubborn), ports, limits=EngineLimits(grace_s=0.1))))
    assert is_shut_down.is_set()


class _Silence:
    def emit(self, event: Any) -> None:
        return None
