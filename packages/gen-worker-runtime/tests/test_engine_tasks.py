"""What an async handler sees of its task, on every Python: from 3.12 on its task starts at once."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.events import Event, Failed, Result
from gen_worker.runtime import Engine, Invocation, RunningCall
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

COLOR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOR", default="none")


class Ask(msgspec.Struct):
    text: str = ""


class Answer(msgspec.Struct):
    text: str


@inference_function
async def answer(ctx: RequestContext, ask: Ask) -> Answer:
    return Answer(ask.text)


@inference_function
async def fail(ctx: RequestContext, ask: Ask) -> Answer:
    raise ValueError("no")


@inference_function
async def name_task(ctx: RequestContext, ask: Ask) -> Answer:
    first = asyncio.current_task()
    await asyncio.sleep(0)
    assert first is not None
    assert asyncio.current_task() is first
    return Answer(first.get_name())


@inference_function
async def wait_too_long(ctx: RequestContext, ask: Ask) -> Answer:
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        return Answer("timed out")
    raise AssertionError("an event that nobody sets")


@inference_function
async def group(ctx: RequestContext, ask: Ask) -> Answer:
    async with asyncio.TaskGroup() as tasks:
        parts = [tasks.create_task(asyncio.sleep(0, word)) for word in ask.text.split()]
    return Answer("+".join(part.result() for part in parts))


@inference_function
async def paint(ctx: RequestContext, ask: Ask) -> Answer:
    seen = COLOR.get()
    COLOR.set(ask.text)
    return Answer(seen)


@inference_function
async def cancel_itself(ctx: RequestContext, ask: Ask) -> Answer:
    ctx.cancel_token.cancel("caller")
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets")


class Kept:
    """A sink that notes what it gets, and fails the test if that is before `submit` returned."""

    wants_events = False

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.call: RunningCall | None = None

    def deliver(self, batch: Sequence[Event]) -> None:
        assert self.call is not None, "delivered before submit returned"
        self.outcome.set_result(batch[-1])


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Event]:
    functions = (answer, fail, name_task, wait_too_long, group, paint, cancel_itself)

    async def submit(function: Any, text: str, before: Callable[[], Awaitable[None]]) -> Event:
        engine = Engine([specs_of(f)[0] for f in functions], fake_ports(tmp_path))
        kept = Kept()
        payload = msgspec.json.encode(Ask(text))
        invocation = Invocation(function=function.__name__, payload=payload, request_id="r1")
        await before()
        kept.call = engine.submit(invocation, kept)
        outcome = await kept.outcome
        assert COLOR.get() in ("none", "caller's")
        await engine.close()
        return outcome

    async def nothing() -> None:
        pass

    def run(function: Any, text: str = "", before: Any = nothing) -> Event:
        return asyncio.run(asyncio.wait_for(submit(function, text, before), 30))

    return run


def value_of(outcome: Event) -> str:
    assert isinstance(outcome, Result), outcome
    text: str = outcome.value.text
    return text


def test_what_ends_at_once_is_delivered_after_submit(call: Callable[..., Event]) -> None:
    assert value_of(call(answer, "now")) == "now"


def test_what_fails_at_once_is_delivered_after_submit(call: Callable[..., Event]) -> None:
    outcome = call(fail)
    assert isinstance(outcome, Failed)
    assert outcome.failure.error_type == "validation"


def test_a_handler_stays_in_one_task_named_after_its_request(call: Callable[..., Event]) -> None:
    assert value_of(call(name_task)) == "r1"


def test_timeouts_and_task_groups_work(call: Callable[..., Event]) -> None:
    assert value_of(call(wait_too_long)) == "timed out"
    assert value_of(call(group, "a b c")) == "a+b+c"


def test_context_variables_come_from_the_caller_and_do_not_return(
    call: Callable[..., Event],
) -> None:
    async def before() -> None:
        COLOR.set("caller's")

    assert value_of(call(paint, "handler's", before)) == "caller's"


def test_a_handler_that_cancels_its_own_call_stops(call: Callable[..., Event]) -> None:
    outcome = call(cancel_itself)
    assert isinstance(outcome, Failed)
    assert outcome.failure.error_type == "canceled"
