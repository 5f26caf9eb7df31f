"""One call on its way through the engine."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.events import Delta, Failed, Result, Timings
from gen_worker.runtime.engine.call_token import CallToken
from gen_worker.runtime.engine.deltas import encode_item
from gen_worker.runtime.engine.payloads import encode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelReason, CancelToken
    from gen_worker.context import RequestContext
    from gen_worker.errors import Failure, Origin
    from gen_worker.events import Event, Telemetry
    from gen_worker.runtime.engine.core import Core
    from gen_worker.runtime.engine.deadlines import Timer
    from gen_worker.runtime.engine.handoff import LoopPort
    from gen_worker.runtime.engine.interrupt import Region
    from gen_worker.runtime.engine.invocation import Invocation, Outcome, Sink
    from gen_worker.runtime.engine.lifecycle import Instance
    from gen_worker.runtime.engine.plan import Plan
    from gen_worker.runtime.engine.runners import Hop
    from gen_worker.runtime.engine.streams import BufferedStream, DirectStream, Stream
    from gen_worker.runtime.engine.threads import Worker

__all__ = [
    "COMPUTE",
    "INPUT",
    "LOAD",
    "OUTPUT",
    "QUEUE",
    "Phase",
    "RunningCall",
]

QUEUE, INPUT, LOAD, COMPUTE, OUTPUT = range(5)
"""Where the time of a call goes; indices of `RunningCall.spent_s`."""

Phase = Literal["input", "model_load", "handler", "output"]

_TAKEN: list[None] = []
_NUDGES = 4
"""How often within the grace period an async handler is told again to stop."""


class _Rarities:
    """What only some calls have."""

    hop: Hop[Any] | None = None
    device: str | None = None
    has_own_models: bool = False
    """Whether the caller brought models, which then may be what is wrong."""
    sequence: int = 0
    input_paths: frozenset[str | None] = frozenset()
    saved_files: int = 0
    _nudges: int = 0
    _stops: int = 0


class RunningCall(_Rarities):
    """A submitted call, as its transport sees it: `token`, `request_id`, `pause` and `resume`.

    The other members belong to the engine.
    """

    # What every call has is in slots: they are made at once, and read and written in half the time.
    __slots__ = (
        "_is_delivered",
        "_is_paused",
        "_since",
        "_timers",
        "choices",
        "core",
        "ctx",
        "deadline",
        "ended",
        "expires_at",
        "given_up",
        "handler",
        "has_begun",
        "instance",
        "invocation",
        "is_cancelable",
        "outcome",
        "own_token",
        "phase",
        "plan",
        "port",
        "region",
        "request_id",
        "sink",
        "spent_s",
        "stream",
        "submitted_at",
        "task",
        "ticket",
        "timeout_ms",
        "token",
        "worker",
    )

    handler: Callable[[], Any]
    """The author's function together with all it is called with."""

    def __init__(
        self,
        core: Core,
        plan: Plan,
        invocation: Invocation,
        sink: Sink | None,
        token: CancelToken | None,
    ) -> None:
        self.core = core
        self.plan = plan
        self.invocation = invocation
        self.sink = sink
        if token is None:
            token = CallToken()
        self.own_token = token if type(token) is CallToken else None
        """The token, unless others have it too."""
        if self.own_token is not None:
            self.own_token.call = self
        self.token = token
        self.request_id = invocation.request_id
        self.port: LoopPort | None = None
        """Way to the loop the call was submitted on; None for `Engine.run`."""
        self.task: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Outcome] | None = None
        """Resolved with the outcome, once everything else is done."""
        self.stream: BufferedStream | DirectStream | None = None
        self.ctx: RequestContext | None = None
        self.instance: Instance | None = None
        self.choices: Mapping[str, Any] | None = None
        self.region: Region | None = None
        self.worker: Worker | None = None
        self.outcome: Outcome | None = None
        self.given_up: Failed | None = None
        """What the transport is told about a handler that is stuck."""
        self.timeout_ms: int | None = None
        self.deadline: float | None = None
        """Unix time."""
        self.expires_at: float | None = None
        """The same on the engine's clock."""
        self.phase: Phase = "input"
        self.ticket = _TAKEN
        """Has an item while the call is in the queue of the thread pool; popping it is atomic."""
        self.has_begun = False
        self.is_cancelable = False
        """Whether the task may be canceled where it waits: it has begun, and gives nothing back
        yet."""
        self._timers: tuple[Timer, ...] = ()
        self._is_paused = False
        self._is_delivered = False
        self.spent_s = [0.0, 0.0, 0.0, 0.0, 0.0]
        self.submitted_at = self._since = perf_counter()

    def __repr__(self) -> str:
        return f"<RunningCall {self.request_id!r} of {self.invocation.function}, {self.token}>"

    # The transport's side

    def pause(self) -> None:
        """Deliver nothing until `resume`; the handler waits once the buffer is full.

        A cancel ends the pause: what was produced until then and the failure are delivered.
        """
        self._is_paused = True

    def resume(self) -> None:
        """Go on delivering. Call it on the loop."""
        self._is_paused = False
        self._pump()

    @property
    def origin(self) -> Origin:
        """Whose fault an error is at this moment."""
        return "input" if self.phase in ("input", "model_load") else "handler"

    # Time

    def spend(self, on: int) -> None:
        """Book the time since the last call of this method."""
        now = perf_counter()
        self.spent_s[on] += now - self._since
        self._since = now

    def discard_if_canceled(self) -> None:
        """Raise when the handler returned although the call was canceled, and nobody wants it.

        What a handler returns in spite of an interrupt (Ctrl-C on a laptop) is still wanted, unless
        it is a stream, which was cut short.
        """
        if self.token.reason != "interrupt" or self.plan.is_streamed:
            self.token.raise_if_canceled()

    # What the handler produces

    def put(self, item: Any) -> bool:
        """Pass a yielded item on; True asks the handler to wait for room."""
        stream, result_format = self.stream, self.invocation.result_format
        if stream is None or result_format == "object":
            return self._put(stream, item, 0)
        data = encode(item, result_format, 0)
        max_bytes = self.core.limits.max_output_delta_bytes
        if not 0 < max_bytes < len(data):
            return self._put(stream, msgspec.Raw(data), len(data))
        is_full = False
        for piece in encode_item(item, result_format, max_bytes):
            is_full = self._put(stream, msgspec.Raw(piece), len(piece))
        return is_full

    def _put(self, stream: Stream | None, value: Any, size_bytes: int) -> bool:
        self.sequence += 1
        if stream is None:
            return False
        delta = Delta(request_id=self.request_id, value=value, sequence=self.sequence)
        return stream.put(delta, size_bytes)

    def tell(self, event: Telemetry) -> bool:
        """Show telemetry to the transport if it asked for it; False when it was shed."""
        stream, sink = self.stream, self.sink
        if stream is None or sink is None or not sink.wants_events:
            return True
        return stream.tell(event)

    # The end

    def succeed(self, value: Any) -> None:
        """Set the result, in the form the transport asked for; raises what `encode` does."""
        result_format = self.invocation.result_format
        if result_format != "object":
            value = msgspec.Raw(encode(value, result_format, self.core.limits.max_output_bytes))
        self.spend(OUTPUT)
        self.outcome = Result(
            request_id=self.request_id,
            value=value,
            timings=self._timings(),
            is_streamed=self.plan.is_streamed,
        )

    def fail(self, failure: Failure) -> None:
        self.outcome = self._failed(failure)

    def give_up(self, failure: Failure) -> None:
        """Answer before the handler has ended; whatever it ends with is not delivered any more."""
        running_s = perf_counter() - self._since if self.phase == "handler" else 0.0
        self.given_up = self._failed(failure, running_s)

    def _failed(self, failure: Failure, running_s: float = 0.0) -> Failed:
        timings = self._timings(running_s)
        return Failed(request_id=self.request_id, failure=failure, timings=timings)

    def _timings(self, running_s: float = 0.0) -> Timings:
        """Return where the time went; `running_s` of the handler is not booked yet."""
        queue, prepare, load, compute, output = self.spent_s
        return Timings(
            queue_ms=queue * 1e3,
            input_ms=prepare * 1e3,
            load_ms=load * 1e3,
            compute_ms=(compute + running_s) * 1e3,
            output_ms=output * 1e3,
        )

    def close(self) -> None:
        """Forget everything that could still fire. The last thing that happens to a call."""
        if self.own_token is not None:
            self.own_token.call = None
        else:
            self.token.discard(self.notice_cancel)
        if self._timers:
            for timer in self._timers:
                timer.cancel()
        if self.task is not None:  # this is the task, on the loop
            self.task = None
            self._pump()

    # Cancellation

    def run(self, worker: Worker) -> None:
        """Run the whole call in a pool thread; see `threads.Job`."""
        if self.claim():
            self.worker = worker
            self.core.run_in(worker, self)
            self.worker = None

    def report(self) -> None:
        """Have the loop look at what the thread has left here."""
        assert self.port is not None, "only submitted calls are in the queue"
        self.port.post(self)

    def claim(self) -> bool:
        """Take the call out of the queue; whoever is first gets it."""
        try:
            self.ticket.pop()
        except IndexError:
            return False
        return True

    def cancel(self, reason: CancelReason) -> None:
        """Trip the token, for a caller who cannot answer for what others do when it trips."""
        try:
            self.token.cancel(reason)
        except Exception:  # a callback of the author's or the transport's
            import logging

            logging.getLogger("gen_worker.runtime").exception("on_cancel of %r failed", self)

    def notice_cancel(self) -> None:
        """React to the token; in the canceling thread."""
        core = self.core
        step_s = core.limits.grace_s / _NUDGES
        self._timers = (*self._timers, core.timers.add(step_s, self._nudge))
        region = self.region
        if region is not None:
            core.interrupter.interrupt(region, self)
        if self.port is not None:
            self.port.post(self)

    def _nudge(self) -> None:
        if self.outcome is not None:
            return
        self._nudges += 1
        if self._nudges < _NUDGES:
            step_s = self.core.limits.grace_s / _NUDGES
            self._timers = (*self._timers, self.core.timers.add(step_s, self._nudge))
        if self.port is not None:
            self.port.post(self)
        elif self._nudges == _NUDGES:
            self.core.report_stuck(self)

    def arrive(self) -> None:
        """Look at what happened in other threads; on the loop."""
        if self.token.reason is not None and self.outcome is None and self.given_up is None:
            self._stop()
        self._pump()

    def _stop(self) -> None:
        if self._nudges >= _NUDGES:
            self.core.report_stuck(self)
        elif self._stops <= self._nudges:
            self._stops = self._nudges + 1
            if self.hop is not None:
                self.hop.call_back(self.token.error())
            elif self.task is not None:
                if self.is_cancelable:
                    self.task.cancel()
            elif self.claim():
                self.core.drop(self)

    # Delivery

    def announce(self) -> None:
        """Have `arrive` called, because the stream has something new."""
        port = self.port
        assert port is not None, "only submitted calls have a buffer"
        if self.plan.is_async:
            port.loop.call_soon(self.arrive)
        else:
            port.post(self)

    def _pump(self) -> None:
        if self._is_delivered or (self._is_paused and self.token.reason is None):
            return
        # The outcome before the items: all items are in the buffer by the time it is set.
        outcome, stream = self.outcome or self.given_up, self.stream
        batch: list[Event] = [] if stream is None else stream.take()
        if outcome is not None:
            self._is_delivered = True
            batch.append(outcome)
        if batch and self.sink is not None:
            self._deliver(batch, self.sink)
        if outcome is not None:
            # Both lead back here, and would keep all of it until a collection.
            self.sink = None
            if self.outcome is not None:
                self.stream = None
            self.core.forget(self, outcome)
            ended = self.ended
            if ended is not None and not ended.done():
                ended.set_result(outcome)

    def _deliver(self, batch: list[Event], sink: Sink) -> None:
        """Hand a batch to the transport; one that fails loses its call, nothing else."""
        try:
            sink.deliver(batch)
        except Exception:
            import logging

            logging.getLogger("gen_worker.runtime").exception("the sink of %r failed", self)
            self.token.cancel("disconnect")
