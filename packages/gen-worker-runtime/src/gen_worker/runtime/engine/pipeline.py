"""The one way every call goes: input, models, slot, handler, output.

The same coroutine runs as a task on an event loop, in a pool thread, and in the thread of
`Engine.run`, where it never suspends. Only the `Runner` knows which.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.errors import is_out_of_memory
from gen_worker.runtime.engine.calls import INPUT, LOAD, QUEUE
from gen_worker.runtime.engine.errors import failure_of
from gen_worker.runtime.engine.handlers import call_async, call_blocking, call_in_thread
from gen_worker.runtime.engine.leasing import (
    Leases,
    choose_models,
    is_callers,
    read_overrides,
    request_for,
    retries_without_memory,
)
from gen_worker.runtime.engine.outputs import fetch_inputs, has_local_files, save_outputs
from gen_worker.runtime.engine.payloads import read_message
from gen_worker.runtime.engine.runners import InlineRunner
from gen_worker.runtime.engine.slots import take
from gen_worker.spec import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gen_worker.cancel import CancelToken
    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.lifecycle import Instance
    from gen_worker.runtime.engine.payloads import Message
    from gen_worker.runtime.engine.runners import Runner
    from gen_worker.runtime.engine.slots import SlotQueue

__all__ = ["Holder", "hold", "perform", "perform_now"]


class Holder(Protocol):
    """A call or a batch, while it holds slots."""

    is_cancelable: bool

    @property
    def token(self) -> CancelToken: ...

    def spend(self, on: int) -> None: ...


async def perform(call: RunningCall, runner: Runner) -> None:
    """Run a call to its end; it has an outcome afterwards, whatever happens.

    Raises:
        KeyboardInterrupt: It came in the thread of `Engine.run`.
    """
    core, plan = call.core, call.plan
    call.is_cancelable = True
    try:
        if call.token.reason is not None:
            raise call.token.error()
        call.spend(QUEUE)
        message = read_message(call.invocation, core.limits.max_input_bytes)
        endpoint = plan.endpoint
        is_ready = endpoint is None or endpoint.is_open
        if is_ready and plan.runs_directly and message.envelope is None:
            this = None if endpoint is None else endpoint.default.object
            payload = plan.read(message)
            call.handler = plan.bind(core.context_of(call, None), payload, {}, this)
            call.spend(INPUT)
            if type(runner) is InlineRunner and not plan.is_async:
                value = call_blocking(call, runner.region)
            else:
                value = await _call_directly(call, runner)
        else:
            value = await _prepare_and_call(call, runner, message)
        call.phase = "output"
        if call.token.reason is not None:
            call.discard_if_canceled()
        if plan.output_files is None and plan.is_inference:
            if not plan.is_streamed:
                plan.check(value)
        else:
            value = await _store(call, runner, message, value)
        call.succeed(value)
    except BaseException as error:
        core.note_interrupt(call, error)
        call.fail(failure_of(error, call))
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        call.is_cancelable = False
        if core.must_release(call):
            await core.release(call, runner)
        core.leave(call)


def perform_now(call: RunningCall, runner: InlineRunner) -> None:
    """Run a call to its end in this thread, where `perform` never suspends."""
    # A coroutine that returns None ends its iteration silently; `send` raises an exception then.
    is_suspended = next(perform(call, runner).__await__(), call) is not call
    assert not is_suspended, "inline, whatever waits blocks"


def _call_directly(call: RunningCall, runner: Runner) -> Coroutine[Any, Any, Any]:
    """Call a function that needs no model, no file and no device, from a task."""
    core = call.core
    if not call.plan.is_async:
        return runner.blocking(call, partial(call_in_thread, call), core.threads)
    if core.tasks.try_take():
        return call_async(call, runner, core.tasks)
    return _wait_and_call(call, runner)


async def _wait_and_call(call: RunningCall, runner: Runner) -> Any:
    tasks = call.core.tasks
    await take(tasks, runner.waiter, call.token)
    call.spend(QUEUE)
    return await call_async(call, runner, tasks)


async def _prepare_and_call(call: RunningCall, runner: Runner, message: Message) -> Any:
    plan = call.plan
    overrides: dict[str, Any] = {}
    if call.invocation.models:
        overrides = dict(call.invocation.models)
        call.has_own_models = any(map(is_callers, overrides.values()))
    if message.envelope is not None:
        callers = await read_overrides(call, runner, message.envelope)
        call.has_own_models |= bool(callers)
        overrides |= callers
    payload = plan.read(message)
    instance: Instance | None = None
    if plan.endpoint is not None:
        call.spend(INPUT)
        call.phase = "model_load"
        instance = call.instance = plan.endpoint.pick(overrides, call.invocation.device)
        if instance.state != "ready":
            await instance.set_up(call.token, runner, call.invocation.device)
            if instance.warmup_ms is not None:
                call.core.measured(call, "warmup_ms", instance.warmup_ms)
        elif plan.endpoint.spreads and call.invocation.device is None and not runner.is_inline:
            await plan.endpoint.spread(instance, runner)
        call.spend(LOAD)
        call.phase = "input"
    if plan.models:
        call.choices = choose_models(plan.models, payload, overrides)
    ctx = call.core.context_of(call, instance)
    if plan.input_files is not None:
        payload = await runner.port(fetch_inputs(call, plan.input_files, payload))
    if not plan.is_inference:
        await runner.port(plan.kind.before(_described(call, message), ctx))
    elif plan.repo_fields:
        from gen_worker.context import jobs  # few payloads name repositories

        fields = message.table().items()
        jobs.describe_job(ctx, {name: value for name, value in fields if name in plan.repo_fields})
        await runner.port(jobs.fetch_source(ctx))
    call.spend(INPUT)
    if plan.spec.batching is not None:
        return await call.core.batch(call, runner, payload, instance)
    asks = request_for(plan.spec, call.token, request_id=call.request_id)
    leases = Leases(call.core.ports.models, runner, asks)
    if plan.models:
        call.phase = "model_load"
        await leases.prepare(plan.models, call.choices or {})
        call.spend(LOAD)
    if instance is not None:
        leases.prepared |= instance.prepared

    async def invoke(models: dict[str, Any]) -> Any:
        this = None if instance is None else instance.object
        call.handler = plan.bind(ctx, payload, models, this)
        if plan.is_async:
            return await call_async(call, runner)
        return await runner.blocking(call, partial(call_in_thread, call), call.core.pool_of(call))

    return await hold(call, [call], runner, leases, invoke)


async def hold(
    holder: Holder,
    calls: list[RunningCall],
    runner: Runner,
    leases: Leases,
    invoke: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
) -> Any:
    """Take what a call or batch needs while it computes, call, and give all of it back.

    Args:
        holder: What waits, and is canceled meanwhile.
        calls: The calls served by it.
        runner: Where it runs.
        leases: Prepared models.
        invoke: Calls the author with the loaded models; called again after out of memory.
    """
    taken: list[SlotQueue] = []
    first = calls[0]
    try:
        for slot in first.core.slots_of(first):
            await take(slot, runner.waiter, holder.token)
            taken.append(slot)
        holder.spend(QUEUE)
        models = await leases.open(first.device or "cpu")
        holder.spend(LOAD)
        attempt = 1
        while True:
            try:
                return await invoke(models)
            except BaseException as error:
                if not is_out_of_memory(error) or holder.token.reason is not None:
                    raise
                if not await retries_without_memory(calls, leases, error, attempt):
                    raise
            attempt += 1
    finally:
        holder.is_cancelable = False
        try:
            await leases.close()
        finally:
            for slot in reversed(taken):
                slot.give_back()
            holder.is_cancelable = True


async def _store(call: RunningCall, runner: Runner, message: Message, value: Any) -> Any:
    """Turn what the handler returned into what is reported; a stream has been item by item."""
    plan = call.plan
    if not plan.is_inference:
        assert call.ctx is not None
        described = _described(call, message)
        return await runner.port(plan.kind.finish(described, call.ctx, value))
    if plan.is_streamed:
        return value
    plan.check(value)
    files = plan.output_files
    if files is not None and has_local_files(files, value):
        value = await runner.port(save_outputs(call, files, value))
        call.discard_if_canceled()
    return value


def _described(call: RunningCall, message: Message) -> Call:
    return Call(spec=call.plan.spec, request_id=call.request_id, raw_payload=message.table())
