"""What the calls of one engine share, and what happens around each of them."""

from __future__ import annotations

import threading
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gen_worker.context import RequestContext
from gen_worker.errors import classify
from gen_worker.events import Emitted, Failed, Log, Metric, Progress
from gen_worker.runtime.engine.admission import Admission
from gen_worker.runtime.engine.call_ports import ports_for_calls
from gen_worker.runtime.engine.deadlines import Deadlines, Timers
from gen_worker.runtime.engine.devices import Devices
from gen_worker.runtime.engine.errors import is_canceling
from gen_worker.runtime.engine.interrupt import Interrupter
from gen_worker.runtime.engine.pipeline import perform_now
from gen_worker.runtime.engine.runners import InlineRunner
from gen_worker.runtime.engine.slots import SlotQueue
from gen_worker.runtime.engine.statistics import Counters
from gen_worker.runtime.engine.threads import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gen_worker.events import Result, Telemetry
    from gen_worker.ports import Ports
    from gen_worker.runtime.engine.batching import Batcher
    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.deadlines import Clock
    from gen_worker.runtime.engine.invocation import EngineLimits
    from gen_worker.runtime.engine.lifecycle import Instance
    from gen_worker.runtime.engine.plan import Plan
    from gen_worker.runtime.engine.runners import Runner, Traveler
    from gen_worker.runtime.engine.threads import Worker

__all__ = ["Core"]


class Core:
    """The inside of an `Engine`: its limits, threads, slots, timers and counters."""

    def __init__(
        self, ports: Ports, limits: EngineLimits, devices: Sequence[str], clock: Clock
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.unix_time = clock.time
        self.timers = Timers(clock)
        self.interrupter = Interrupter()
        self.devices = Devices(devices, self.interrupter)
        self.threads = ThreadPool("cpu", limits.max_threads, self.interrupter)
        self.tasks = SlotQueue("tasks", limits.max_tasks)
        self.counters = Counters()
        self.admission = Admission(limits.max_queue)
        self.deadlines = Deadlines(clock, self.timers, self.admission.calls)
        self.ports, self.files = ports_for_calls(ports, self._tell)
        self.notice_warmup: Callable[[str], object] = _ignore
        """Called with the name of a class before its `warmup`, in any thread."""
        self._publishes = ports.publisher is not None
        self.events = ports.events
        """Where the engine's own events go: transports are shown only what the author reports."""
        self._names_device = list(devices) != ["cpu"]
        self._batchers: dict[tuple[Plan, Instance | None], Batcher] = {}
        self._stuck: set[Traveler] = set()
        self._lock = threading.Lock()
        self._coroutines = threading.Lock()
        self._asyncio_runner: Any = None

    # What a call is given

    def context_of(self, call: RunningCall, instance: Instance | None) -> RequestContext:
        """Make the context of a call, and choose its device."""
        invocation, plan = call.invocation, call.plan
        device, models = invocation.device, None  # a wish, unless a slot goes with it
        if plan.needs_gpu:
            pinned = None if instance is None else instance.device
            call.device = self.devices.pick(device, pinned).name
            device = call.device if self._names_device else None
        if call.choices is not None or (instance is not None and instance.choices):
            shared = {} if instance is None else instance.choices
            models = {**shared, **(call.choices or {})}
        # In two steps: a class that is called makes a dict of the keywords first, which takes
        # longer than everything else here.
        ctx = RequestContext.__new__(RequestContext) if plan.is_inference else None
        fill: Any = plan.new_context if ctx is None else ctx.__init__  # type: ignore[misc]
        made = fill(
            request_id=call.request_id,
            ports=self.ports,
            token=call.token,
            job_id=invocation.job_id,
            owner=invocation.owner,
            invoker_id=invocation.invoker_id,
            timeout_ms=call.timeout_ms,
            deadline=call.deadline,
            device=device,
            compute=invocation.compute,
            models=models,
            hints=invocation.hints,
            clock=self.unix_time,
        )
        call.ctx = ctx = made if ctx is None else ctx
        return ctx

    def slots_of(self, call: RunningCall) -> list[SlotQueue]:
        """Return what a call holds while it computes, in the order to take it."""
        plan = call.plan
        slots = [] if plan.lane is None else [plan.lane]
        if call.device is not None:
            slots.append(self.devices.by_name[call.device].slot)
        elif plan.is_async:
            slots.append(self.tasks)
        return slots

    def pool_of(self, call: RunningCall) -> ThreadPool:
        return self.threads if call.device is None else self.devices.by_name[call.device].pool

    async def batch(
        self, call: RunningCall, runner: Runner, payload: Any, instance: Instance | None
    ) -> Any:
        """Let a call be part of a batch; returns its result."""
        key = (call.plan, instance)
        batcher = self._batchers.get(key)
        if batcher is None:
            from gen_worker.runtime.engine.batching import Batcher  # few functions batch

            batcher = self._batchers.setdefault(key, Batcher(self, call.plan, instance))
        return await batcher.join(call, runner, payload)

    # Around a call

    def run_in(self, worker: Worker, call: RunningCall) -> None:
        """Run a whole call in a pool thread, with context variables of its own."""
        runner = worker.runner
        if runner is None:
            runner = InlineRunner(worker.region, self.ports.run, self.run_coroutine)
            worker.runner = runner
        copy_context().run(perform_now, call, runner)

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run an author's coroutine in a thread that has no event loop; one at a time."""
        import asyncio

        with self._coroutines:
            if self._asyncio_runner is None:
                self._asyncio_runner = asyncio.Runner()
            return self._asyncio_runner.run(coroutine)

    def note_interrupt(self, call: RunningCall, error: BaseException) -> None:
        """Trip the token of a call that was stopped from outside the engine."""
        if call.token.reason is not None:
            return
        if isinstance(error, KeyboardInterrupt):
            call.token.cancel("interrupt")
        elif is_canceling(error) and call.task is not None and call.task.cancelling():
            call.token.cancel("shutdown")

    def must_release(self, call: RunningCall) -> bool:
        """Tell whether something of the call has to be given back; of most calls nothing is."""
        return (
            call.instance is not None
            or not call.plan.is_inference
            or call.request_id in self.files.users
            or self._has_published(call.ctx)
        )

    def _has_published(self, ctx: RequestContext | None) -> bool:
        """Tell whether the call may have used the publisher, which shares what `files` keeps."""
        return self._publishes and ctx is not None and ctx.needs_release

    async def release(self, call: RunningCall, runner: Runner) -> None:
        """Give back what a call was given; its outcome is known and does not change any more."""
        ctx, endpoint = call.ctx, call.plan.endpoint
        has_used_files = call.request_id in self.files.users or self._has_published(ctx)
        try:
            if call.instance is not None and endpoint is not None:
                await endpoint.leave(call.instance, runner)
            if ctx is not None:
                await runner.port(ctx.release(is_over=_is_over(call)))
            if has_used_files:
                await runner.port(self.files.release(call.request_id))
        except Exception:
            import logging

            logging.getLogger("gen_worker.runtime").exception("%r could not be cleaned up", call)

    def leave(self, call: RunningCall) -> None:
        """Let go of a call that has ended."""
        if self._stuck:
            self.settle_stuck(call)
        if call.plan.rate_limit is not None:
            self.admission.leave(call)
        if call.token.reason is not None and call.has_begun:
            self.counters.count_stopped(call.token)
        call.close()

    @property
    def thread_count(self) -> int:
        pools = (device.pool for device in self.devices.by_name.values())
        return len(self.threads) + sum(len(pool) for pool in pools)

    def stop(self, when_empty: Callable[[], object]) -> None:
        """Let no call in any more and cancel those that are here; then call `when_empty`."""
        self.admission.close(when_empty)
        for call in list(self.admission.calls.values()):
            call.cancel("shutdown")

    def close(self) -> None:
        """End every thread but those that are stuck."""
        self.timers.close()
        for pool in (self.threads, *(device.pool for device in self.devices.by_name.values())):
            pool.close(timeout_s=1.0)
        self.interrupter.close()
        runner, self._asyncio_runner = self._asyncio_runner, None
        if runner is not None:
            # In a thread of its own, because a loop of the caller's may be running in this one.
            closing = threading.Thread(target=runner.close)
            closing.start()
            closing.join()

    def drop(self, call: RunningCall) -> None:
        """End a call that was canceled before anything of it ran."""
        call.fail(classify(call.token.error(), origin="input"))
        self.leave(call)

    def forget(self, call: RunningCall, outcome: Result | Failed) -> None:
        """Count a call whose outcome was delivered."""
        self.admission.answer(call)
        self.counters.count(outcome)

    def measured(self, call: RunningCall, name: str, value: float) -> None:
        """Tell the host a number about a call."""
        metric = Metric(request_id=call.request_id, name=name, value=value, at=self.unix_time())
        self.events.emit(metric)

    def _tell(self, event: Telemetry) -> None:
        if isinstance(event, (Progress, Log, Emitted)):
            call = self.admission.calls.get(event.request_id)
            if call is not None and not call.tell(event):
                self.counters.shed_events.add()

    # Handlers that do not stop

    @property
    def stuck_threads(self) -> int:
        return len(self._stuck)

    def report_stuck(self, call: RunningCall) -> None:
        """Answer a call whose handler ignored its cancel for the grace period.

        What the handler holds stays held until it ends: its device's slot, its function's lane,
        its invoker's share. Only its thread is replaced, so that the pool does not shrink.
        """
        if call.outcome is None and call.given_up is None:
            self.mark_stuck(call, call)
            text = f"the handler did not stop within {self.limits.grace_s:g} s of its cancel"
            call.give_up(classify(call.token.error(f"{call.token.error()}: {text}")))

    def mark_stuck(self, traveler: Traveler, call: RunningCall) -> None:
        """Count a handler as stuck, tell about it, and replace its thread."""
        import logging

        phase = call.plan.spec.kind if call.phase == "handler" else call.phase
        logging.getLogger("gen_worker.runtime").warning(
            "%r (request %r) goes on %g s after its cancel and keeps what it holds: until it ends, "
            "only a new process frees that; see that it stops when `ctx.is_canceled()`",
            call.plan.spec.name,
            call.request_id,
            self.limits.grace_s,
        )
        with self._lock:
            self._stuck.add(traveler)
        self.ports.events.emit(
            Emitted(
                request_id=call.request_id,
                type=f"request.{phase}.stuck",
                payload={
                    "function_name": call.plan.spec.name,
                    "phase": phase,
                    "warn_after_s": self.limits.grace_s,
                    "elapsed_ms": round((perf_counter() - call.submitted_at) * 1e3),
                },
                at=self.clock.time(),
            )
        )
        if traveler.worker is not None:
            self.pool_of(call).abandon(traveler.worker)

    def settle_stuck(self, traveler: Traveler) -> None:
        """Note that a handler has ended after all."""
        with self._lock:
            self._stuck.discard(traveler)


def _is_over(call: RunningCall) -> bool:
    """Tell whether no other attempt follows: it is done, nobody wants it, or it would fail again.

    What was stopped because its host goes away, or its caller did, may come again.
    """
    outcome = call.outcome
    if not isinstance(outcome, Failed):
        return outcome is not None
    if outcome.failure.error_type == "canceled":
        return call.token.reason in ("caller", "deadline")
    return not outcome.failure.retryable


def _ignore(name: str) -> None:
    """Notice nothing."""
