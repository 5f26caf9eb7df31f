"""The engine: every call of every transport goes through it."""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING

from gen_worker.cancel import CancelToken, Interrupted
from gen_worker.ports import drive
from gen_worker.runtime.engine.calls import RunningCall
from gen_worker.runtime.engine.core import Core
from gen_worker.runtime.engine.deadlines import SYSTEM_CLOCK
from gen_worker.runtime.engine.interrupt import Region
from gen_worker.runtime.engine.invocation import EngineLimits
from gen_worker.runtime.engine.pipeline import perform, perform_now
from gen_worker.runtime.engine.refused import RefusedCall
from gen_worker.runtime.engine.registry import Registry
from gen_worker.runtime.engine.runners import InlineRunner, LoopRunner
from gen_worker.runtime.engine.slots import Holding
from gen_worker.runtime.engine.statistics import EngineStatistics
from gen_worker.runtime.engine.streams import BufferedStream, DirectStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import FrameType

    from gen_worker.ports import Ports
    from gen_worker.runtime.engine.deadlines import Clock
    from gen_worker.runtime.engine.invocation import Invocation, Outcome, Sink
    from gen_worker.runtime.engine.runners import Runner
    from gen_worker.spec import FunctionSpec

__all__ = ["Engine"]

_LIMITS = EngineLimits()
_SHUTDOWN_S = 30.0
_INSISTENT_S = 0.03
"""A second signal is as insistent as a cancel that has waited this long for a good place."""


class Engine:
    """Runs functions: from a thread without an event loop (`run`) or on one (`submit`, `call`).

    Every call ends with exactly one outcome, a `Result` or a `Failed`; nothing is raised for what
    a caller or an author did wrong. All methods but `close` and `close_now` may be called while
    calls are running, `submit` and `call` on one event loop at a time.
    """

    functions: Mapping[str, FunctionSpec]
    """What can be called, by slug."""

    def __init__(
        self,
        functions: Iterable[FunctionSpec],
        ports: Ports,
        *,
        limits: EngineLimits = _LIMITS,
        devices: Sequence[str] = ("cpu",),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Serve functions; threads and connections exist only once a call needs them.

        Args:
            functions: As `specs_of` finds them.
            ports: The host.
            limits: Bounds of queues, threads, buffers and sizes.
            devices: What functions that need a GPU run on, one at a time each.
            clock: What deadlines and batch windows are measured with.

        Raises:
            ValueError: Two functions share a slug, or two devices a name.
        """
        self._core = Core(ports, limits, devices, clock)
        self._registry = Registry(functions, self._core)
        self.functions = self._registry.functions
        self._runner: LoopRunner | None = None
        self._foreground: dict[RunningCall, Region] = {}
        self._inline_runners: dict[int, InlineRunner] = {}
        self._signals = 0

    def __repr__(self) -> str:
        return f"<Engine of {', '.join(self.functions) or 'nothing'}>"

    def lookup(self, name: str) -> FunctionSpec:
        """Return the function of this slug, registered name or Python name.

        Raises:
            UnknownFunctionError: There is none; the message lists what there is.
        """
        return self._registry.lookup(name)

    # Calls

    def run(
        self, invocation: Invocation, sink: Sink | None = None, *, token: CancelToken | None = None
    ) -> Outcome:
        """Run a call in this thread and return its outcome; `sink` gets it too, last.

        A sync function uses no event loop, and asyncio is not imported for it. An async one runs
        on a loop of the engine's own, one at a time.
        """
        try:
            plan = self._registry.plan(invocation.function)
            if plan.is_async:
                outcome: Outcome = self._core.run_coroutine(
                    self.call(invocation, sink, token=token)
                )
                return outcome
            call = RunningCall(self._core, plan, invocation, sink, token)
            self._core.admission.enter(call)
        except Exception as error:
            return self._deliver_inline(RefusedCall(self._core, invocation, sink, error))
        return self._run_inline(call)

    def submit(
        self, invocation: Invocation, sink: Sink, *, token: CancelToken | None = None
    ) -> RunningCall:
        """Start a call on the running event loop; never blocks and raises nothing.

        `sink` gets what the call produces, after this method has returned. A call that is refused
        (unknown function, duplicate id, overload) gets its `Failed` the same way.
        """
        return self._submit(self._runner_here(), invocation, sink, token)

    async def call(
        self,
        invocation: Invocation,
        sink: Sink | None = None,
        *,
        token: CancelToken | None = None,
    ) -> Outcome:
        """Submit a call and wait for its outcome; `sink` gets it too.

        Without a sink, what the call streams is counted and dropped. Canceling the coroutine that
        this returns cancels the call.
        """
        runner = self._runner_here()
        call = self._submit(runner, invocation, sink, token)
        ended = call.ended = runner.loop.create_future()
        try:
            outcome: Outcome = await ended
            return outcome
        except BaseException:
            call.token.cancel("caller")
            raise

    # Life

    async def setup(self, names: Iterable[str] | None = None) -> None:
        """Set class endpoints up now rather than at their first call.

        Args:
            names: Functions whose classes are meant; None means all.

        Raises:
            UnknownFunctionError: There is no such function.
            Exception: What the one failed `setup` raised; an `ExceptionGroup` of several.
        """
        await self._set_up(names, self._runner_here())

    async def retire(self, names: Iterable[str]) -> None:
        """Shut class endpoints down until their next call, which has them set up anew.

        Args:
            names: Functions whose classes are meant. None of their calls may be running.

        Raises:
            UnknownFunctionError: There is no such function.
        """
        runner = self._runner_here()
        endpoints = dict.fromkeys(self._registry.endpoint(self.lookup(name)) for name in names)
        for endpoint in endpoints:
            if endpoint is not None:
                await endpoint.retire(runner)

    def holding(self, device: str) -> Holding:
        """Return a context that keeps calls off a device; entering waits for the one there."""
        return Holding(self._core.devices.by_name[device].slot, self._runner_here().waiter)

    def token_of(self, request_id: str) -> CancelToken | None:
        """Return what cancels a call that is here; None when there is none. From any thread."""
        call = self._core.admission.calls.get(request_id)
        return None if call is None else call.token

    @property
    def queued(self) -> int:
        """Calls that wait for files, models, a slot or a thread."""
        return self._core.admission.queued

    def on_warmup(self, notice: Callable[[str], object]) -> None:
        """Call `notice` with the name of each class before its `warmup`, in any thread."""
        self._core.notice_warmup = notice

    @property
    def failed_setups(self) -> tuple[str, ...]:
        """Classes whose last `setup` failed; a later call tries again."""
        endpoints = self._registry.endpoints
        return tuple(one.spec.name for one in endpoints if one.default.state == "failed")

    def setup_now(self, names: Iterable[str] | None = None) -> None:
        """Do what `setup` does, in this thread."""
        drive(self._set_up(names, self._inline_runner()))

    async def close(self, grace_s: float = 10.0) -> None:
        """Cancel every call, wait for their ends, and shut the class endpoints down.

        Args:
            grace_s: How long handlers may go on before they are left behind. `shutdown` hooks have
                30 seconds of their own.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self._core.stop(lambda: loop.call_soon_threadsafe(ended.set))
        try:
            await asyncio.wait_for(ended.wait(), grace_s)
        except TimeoutError:
            pass  # whoever is left is stuck and was told so
        runner = self._runner_here()
        hooks = loop.create_task(self._shut_down(runner))
        await asyncio.wait([hooks], timeout=_SHUTDOWN_S)
        if not hooks.done():
            import logging

            log = logging.getLogger("gen_worker.runtime")
            log.error("a `shutdown` takes longer than %g s and is left behind", _SHUTDOWN_S)
        await runner.settle(grace_s)  # a `setup` that was under way
        self._core.close()

    def close_now(self, grace_s: float = 10.0) -> None:
        """Do what `close` does, from a thread without an event loop."""
        from threading import Event

        ended = Event()
        self._core.stop(ended.set)
        ended.wait(grace_s)
        drive(self._shut_down(self._inline_runner()))
        self._core.close()

    def statistics(self) -> EngineStatistics:
        """Return what the engine has done and is doing."""
        core = self._core
        counters = core.counters
        return EngineStatistics(
            running=core.admission.running,
            queued=core.admission.queued,
            completed=counters.completed.value,
            failed=counters.failed.value,
            canceled=counters.canceled.value,
            stuck_threads=core.stuck_threads,
            threads=core.thread_count,
            refused=counters.refused.value,
            shed_events=counters.shed_events.value,
            cancel_latency=counters.cancel_latency,
        )

    def interrupt_from_signal(self, frame: FrameType | None) -> bool:
        """Cancel what `run` is running; for the program's SIGINT and SIGTERM handlers.

        Raises `Interrupted` where that does no harm, so that even `time.sleep` ends at once; `run`
        turns it into the call's outcome. Elsewhere the handler stops as for any other cancel.

        Args:
            frame: What the signal handler was given.

        Returns:
            Whether anything was running.

        Raises:
            Interrupted: Let it pass.
        """
        self._signals += 1
        running = list(self._core.admission.calls.values())
        for call in running:
            call.cancel("interrupt")
        if self._foreground:
            call, region = list(self._foreground.items())[-1]
            is_waiting = call.phase in ("input", "model_load") and region.occupant is None
            if is_waiting or region.may_raise_in(frame, _INSISTENT_S if self._signals > 1 else 0.0):
                raise Interrupted
        return bool(running)

    # Inside

    def _submit(
        self,
        runner: LoopRunner,
        invocation: Invocation,
        sink: Sink | None,
        token: CancelToken | None,
    ) -> RunningCall:
        port = runner.port_to_loop
        try:
            plan = self._registry.plan(invocation.function)
            call = RunningCall(self._core, plan, invocation, sink, token)
            self._core.admission.enter(call)
        except Exception as error:
            call = RefusedCall(self._core, invocation, sink, error)
            call.port = port
            port.loop.call_soon(call.arrive)
            return call
        call.port = port
        if sink is not None and (plan.is_streamed or sink.wants_events):
            call.stream = BufferedStream(self._core.limits, call.announce)
        self._watch(call)
        is_ready = plan.endpoint is None or plan.endpoint.is_open
        if is_ready and plan.runs_directly and not plan.is_async:
            call.ticket = [None]
            self._core.threads.submit(call)
        else:
            runner.start(call, perform(call, runner))
        return call

    def _watch(self, call: RunningCall) -> None:
        timeout_ms, own_ms = call.invocation.timeout_ms, call.plan.timeout_ms
        if own_ms and (not timeout_ms or own_ms < timeout_ms):
            timeout_ms = own_ms
        if timeout_ms:
            self._core.deadlines.set(call, timeout_ms)
        if call.own_token is None:
            call.token.on_cancel(call.notice_cancel)

    def _run_inline(self, call: RunningCall) -> Outcome:
        runner = self._inline_runner()
        sink, region = call.sink, runner.region
        if sink is not None and (call.plan.is_streamed or sink.wants_events):
            call.stream = DirectStream(sink)
        self._signals = 0
        self._foreground[call] = region
        try:
            self._watch(call)
            perform_now(call, runner)
        finally:
            del self._foreground[call]
            self._inline_runners[region.ident] = runner
            outcome = self._deliver_inline(call)
        return outcome

    def _deliver_inline(self, call: RunningCall) -> Outcome:
        outcome, sink = call.outcome, call.sink
        assert outcome is not None, "perform leaves an outcome, whatever happens"
        if sink is not None:
            held_back = [] if call.stream is None else call.stream.take()
            sink.deliver((*held_back, outcome))
        self._core.forget(call, outcome)
        return outcome

    def _inline_runner(self) -> InlineRunner:
        """Return this thread's runner; a call within a call gets one of its own."""
        runner = self._inline_runners.pop(get_ident(), None)
        return runner or InlineRunner(Region(), self._core.ports.run, self._core.run_coroutine)

    def _runner_here(self) -> LoopRunner:
        runner = self._runner
        if runner is None or runner.running_loop() is not runner.loop:
            if "asyncio" not in sys.modules:
                raise RuntimeError("no event loop is running here: use `run`")
            runner = self._runner = LoopRunner()
        return runner

    async def _set_up(self, names: Iterable[str] | None, runner: Runner) -> None:
        wanted = self.functions.values() if names is None else [self.lookup(n) for n in names]
        endpoints = dict.fromkeys(self._registry.endpoint(spec) for spec in wanted)
        errors: list[Exception] = []
        for endpoint in endpoints:
            try:
                if endpoint is not None:
                    await endpoint.default.set_up(CancelToken(), runner, None)
            except Exception as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("several classes could not be set up", errors)

    async def _shut_down(self, runner: Runner) -> None:
        for endpoint in self._registry.endpoints:
            for instance in endpoint.instances:
                await instance.shut_down(runner)
