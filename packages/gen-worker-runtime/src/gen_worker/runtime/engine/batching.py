"""Calls collected into one: a batch forms before it takes a slot, and every caller keeps its own.

The author's function gets two lists, contexts and payloads, and returns a list of results in the
same order. An item that is an exception fails its caller alone. Anything but a list of that length
fails all: handing one answer to every caller would show one caller's result to the others.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from gen_worker.cancel import CancelToken
from gen_worker.runtime.engine.calls import COMPUTE, QUEUE
from gen_worker.runtime.engine.handlers import begin
from gen_worker.runtime.engine.leasing import Leases, request_for
from gen_worker.runtime.engine.pipeline import hold

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.core import Core
    from gen_worker.runtime.engine.handoff import Waiter
    from gen_worker.runtime.engine.interrupt import Region
    from gen_worker.runtime.engine.lifecycle import Instance
    from gen_worker.runtime.engine.plan import Plan
    from gen_worker.runtime.engine.runners import Hop, LoopRunner, Runner
    from gen_worker.runtime.engine.threads import Worker

__all__ = ["Batcher"]


class _Member:
    """One call in a batch."""

    __slots__ = ("call", "error", "has_left", "payload", "value", "waiter")

    def __init__(self, call: RunningCall, payload: Any, waiter: Waiter) -> None:
        self.call = call
        self.payload = payload
        self.waiter = waiter
        self.value: Any = None
        self.error: BaseException | None = None
        self.has_left = False


class Batcher:
    """Collects the calls of one function on one instance."""

    def __init__(self, core: Core, plan: Plan, instance: Instance | None) -> None:
        self.core = core
        self.plan = plan
        self.instance = instance
        self._max_batch = plan.spec.batching.max_batch if plan.spec.batching else 1
        if instance is not None and _breaks_batching(instance.object):
            self._max_batch = 1
        self._forming: _Batch | None = None
        self._lock = threading.Lock()

    async def join(self, call: RunningCall, runner: Runner, payload: Any) -> Any:
        """Be part of the next batch; returns this call's result.

        A batch goes for its slot once the window is over or `max_batch` is reached, and more calls
        may join while it waits there. Without an event loop each call is a batch of one.
        """
        member = _Member(call, payload, runner.waiter())
        batch = self._enter(member, runner)
        if runner.is_inline:
            await batch.run()
        try:
            await member.waiter.wait(call.token)
        except BaseException:
            batch.leave(member)
            raise
        if member.error is not None:
            raise member.error
        return member.value

    def close(self, batch: _Batch) -> list[_Member]:
        """Let nobody join `batch` any more; return who stayed."""
        with self._lock:
            if self._forming is batch:
                self._forming = None
            return [member for member in batch.members if not member.has_left]

    def _enter(self, member: _Member, runner: Runner) -> _Batch:
        batching = self.plan.spec.batching
        assert batching is not None
        if runner.is_inline:
            return _Batch(self, runner, member)
        with self._lock:
            batch = self._forming
            is_new = batch is None or batch.runner is not runner
            if batch is None or is_new:
                batch = self._forming = _Batch(self, runner, member)
            else:
                batch.members.append(member)
            is_full = len(batch.members) >= self._max_batch
            if is_full:
                self._forming = None
        if is_full:
            batch.arrive()
        elif is_new:
            self.core.timers.add(batching.window_ms / 1000, batch.post)
        return batch


def _breaks_batching(made: object) -> bool:
    """Tell whether an attribute declares that it keeps something of one call for the next."""
    attributes = getattr(made, "__dict__", {}).values()
    return any(getattr(one, "breaks_cross_request_batching", False) is True for one in attributes)


class _Batch:
    """Several calls on their way through one call of the author's function."""

    # See `runners.Traveler`, `interrupt.Occupant` and `pipeline.Holder`.
    hop: Hop[Any] | None = None
    worker: Worker | None = None
    region: Region | None = None
    is_cancelable: bool = True
    _task: asyncio.Task[None] | None = None

    def __init__(self, batcher: Batcher, runner: Runner, first: _Member) -> None:
        self.runner = runner
        self.members = [first]
        # Without a loop its one caller is inside of it, and cannot leave it to tell it to stop.
        self.token = first.call.token if runner.is_inline else CancelToken()
        self.token.on_cancel(self._notice_cancel)
        self._batcher = batcher

    def __repr__(self) -> str:
        ids = [member.call.request_id for member in self.members]
        return f"<batch of {self._batcher.plan.spec.name}: {ids!r}>"

    def spend(self, on: int) -> None:
        for member in self.members:
            member.call.spend(on)

    def post(self) -> None:
        """Have `arrive` called on the loop."""
        runner: LoopRunner = self.runner  # type: ignore[assignment]  # inline batches do not wait
        runner.port_to_loop.post(self)

    def arrive(self) -> None:
        """Go for the slot, unless that happened before; on the loop."""
        runner: LoopRunner = self.runner  # type: ignore[assignment]  # inline batches do not wait
        if self._task is None:
            self._task = runner.spawn(self.run())

    def leave(self, member: _Member) -> None:
        """Go on without one caller; the last one to leave cancels the batch."""
        member.has_left = True
        if all(other.has_left for other in self.members):
            self._batcher.close(self)
            self.token.cancel("caller")

    async def run(self) -> None:
        """Compute, and give each member its result or error."""
        batcher = self._batcher
        asks = request_for(batcher.plan.spec, self.token)
        leases = Leases(batcher.core.ports.models, self.runner, asks)
        if batcher.instance is not None:
            leases.prepared = dict(batcher.instance.prepared)
        calls = [member.call for member in self.members if not member.has_left]
        batcher.core.admission.begin_batch(self)
        try:
            if calls:
                await hold(self, calls, self.runner, leases, self._invoke)
        except BaseException as error:  # each caller judges it
            for member in self.members:
                member.error = member.error or error
        finally:
            self.token.discard(self._notice_cancel)
            batcher.close(self)
            batcher.core.settle_stuck(self)
            batcher.core.admission.end_batch(self)
            for member in self.members:
                member.waiter.wake()

    async def _invoke(self, models: dict[str, Any]) -> None:
        batcher = self._batcher
        members = batcher.close(self)
        if not members:
            raise self.token.error()
        instance = batcher.instance
        handler = batcher.plan.bind(
            [member.call.ctx for member in members],  # type: ignore[arg-type]  # one for each
            [member.payload for member in members],
            models,
            None if instance is None else instance.object,
        )
        pool = batcher.core.pool_of(members[0].call)
        function = partial(self._compute, members, handler)
        values = await self.runner.blocking(self, function, pool)
        if not isinstance(values, (list, tuple)) or len(values) != len(members):
            found = f"{len(values)}" if isinstance(values, (list, tuple)) else type(values).__name__
            raise TypeError(
                f"{batcher.plan.spec.qualname} got {len(members)} payloads and must return a list "
                f"of as many results, not {found}"
            )
        for member, value in zip(members, values, strict=True):
            if isinstance(value, BaseException):
                member.error = value
            else:
                member.value = value

    def _compute(self, members: list[_Member], handler: Callable[[], Any], region: Region) -> Any:
        self.region = region
        try:
            self.token.raise_if_canceled()
            for member in members:
                member.call.spend(QUEUE)
                begin(member.call)
            return region.call(self, handler)
        finally:
            self.region = None
            for member in members:
                member.call.spend(COMPUTE)

    def _notice_cancel(self) -> None:
        core = self._batcher.core
        if self.region is not None:
            core.interrupter.interrupt(self.region, self)
            core.timers.add(core.limits.grace_s, self._overrun)
        elif self.hop is not None:
            self.hop.call_back(self.token.error())
        elif self._task is not None and self.is_cancelable:
            self._task.cancel()

    def _overrun(self) -> None:
        if self.worker is not None:
            self._batcher.core.mark_stuck(self, self.members[0].call)
            self._batcher.core.admission.end_batch(self)
