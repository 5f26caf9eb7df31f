"""Calling the author's function, in each of its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import FatalError
from gen_worker.events import Started
from gen_worker.ports import drive
from gen_worker.runtime.engine.calls import COMPUTE, QUEUE
from gen_worker.runtime.engine.handoff import ThreadWaiter
from gen_worker.runtime.engine.outputs import has_local_files, save_outputs
from gen_worker.runtime.engine.streams import BufferedStream
from gen_worker.streaming import Done, Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.interrupt import Region
    from gen_worker.runtime.engine.plan import Plan
    from gen_worker.runtime.engine.runners import Runner
    from gen_worker.runtime.engine.slots import SlotQueue

__all__ = ["begin", "call_async", "call_blocking", "call_in_thread"]

_END = object()
_ITEMS_PER_TURN = 64
"""Items an async generator may yield before other tasks get the loop."""


def begin(call: RunningCall) -> None:
    """Say that the author's function is about to be called."""
    core = call.core
    call.phase = "handler"
    call.has_begun = True
    core.admission.begun.add(call)  # a set, because out of memory calls the function again
    core.events.emit(
        Started(request_id=call.request_id, function=call.plan.name, at=core.unix_time())
    )


def call_in_thread(call: RunningCall, region: Region) -> Any:
    """Do what `call_blocking` does, after the call has waited for this thread."""
    call.spend(QUEUE)
    return call_blocking(call, region)


def call_blocking(call: RunningCall, region: Region) -> Any:
    """Run a sync handler in this thread; what it yields goes to the call's stream.

    Returns:
        Its result; `{"yielded": n}` for a stream; the list of items where they are no stream.
    """
    plan = call.plan
    # In this order: a cancel either sees the region, or is seen by the look at the token.
    call.region = region
    try:
        if call.token.reason is not None:
            raise call.token.error()
        begin(call)
        value = region.call(call, call.handler)
        if plan.is_generator:
            value = _consume(call, region, value)
    finally:
        call.region = None
        call.spend(COMPUTE)
    return value


def _consume(call: RunningCall, region: Region, produced: Any) -> Any:
    plan, token = call.plan, call.token
    plan.check_stream(produced)
    items = iter(produced)
    plain, files = plan.item_type, plan.output_files
    kept: list[Any] | None = None if plan.is_streamed else []
    count, last = 0, call.core.limits.max_deltas if plan.is_streamed else 0
    try:
        while (item := region.next(call, items, _END)) is not _END:
            if token.reason is not None:
                raise token.error()
            if type(item) is not plain and _is_end(plan, item):
                break
            count += 1
            if kept is not None:
                kept.append(item)
                continue
            if files is not None and has_local_files(files, item):
                item = call.core.ports.run(save_outputs(call, files, item))
            if call.put(item) and isinstance(call.stream, BufferedStream):
                drive(call.stream.wait_for_room(ThreadWaiter, token))
            if count == last:
                break
    finally:
        # The author's `finally` blocks run now, outside the region: cleaning up is not interrupted.
        close = getattr(items, "close", None)
        if close is not None:
            close()
    return {"yielded": count} if kept is None else kept


def _is_end(plan: Plan, item: Any) -> bool:
    """Look at an item that is not of the declared type itself; tell whether it ends the stream.

    Raises:
        FatalError: It says that the stream ended with an error.
        TypeError: It is not what the function declares.
    """
    if isinstance(item, Error):
        raise FatalError(item.message or "the stream ended with an error")
    if isinstance(item, Done):
        return True
    plan.check_item(item)
    return False


async def call_async(call: RunningCall, runner: Runner, slot: SlotQueue | None = None) -> Any:
    """Run an async handler in this task; returns what `call_blocking` does.

    Args:
        call: The call.
        runner: Where it runs.
        slot: Was taken for it, and is given back at the end.
    """
    plan = call.plan
    try:
        if call.token.reason is not None:
            raise call.token.error()
        begin(call)
        produced = call.handler()
        if not plan.is_generator:
            return await produced
        if hasattr(produced, "__await__"):  # `async def` that returns an iterator made elsewhere
            produced = await produced
        plan.check_stream(produced)
        return await _consume_async(call, runner, aiter(produced))
    finally:
        call.spend(COMPUTE)
        if slot is not None:
            slot.give_back()


async def _consume_async(call: RunningCall, runner: Runner, items: AsyncIterator[Any]) -> Any:
    from asyncio import sleep

    count, last = 0, call.core.limits.max_deltas
    plan, token = call.plan, call.token
    plain, files = plan.item_type, plan.output_files
    try:
        async for item in items:
            if token.reason is not None:
                raise token.error()
            if type(item) is not plain and _is_end(plan, item):
                break
            count += 1
            if files is not None and has_local_files(files, item):
                item = await save_outputs(call, files, item)
            if call.put(item) and isinstance(call.stream, BufferedStream):
                await call.stream.wait_for_room(runner.waiter, token)
            elif count % _ITEMS_PER_TURN == 0:
                await sleep(0)
            if count == last:
                break
    finally:
        call.is_cancelable = False
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    return {"yielded": count}
