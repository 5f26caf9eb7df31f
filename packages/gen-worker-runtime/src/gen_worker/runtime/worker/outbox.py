"""What the worker has to say, until the other end has surely heard it.

Results and streamed output are never dropped: they wait while there is no connection, and what a
lost connection may have swallowed is sent again. Telemetry is shed when it does not get through,
and of signals the newest of a kind stands for all. A result follows what was said of its request:
whoever hears the result listens no longer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from gen_worker.runtime.wire import (
    StreamDone,
    StreamError,
    TokenDelta,
    UnencodableMessageError,
    encode,
)
from gen_worker.runtime.worker.deltas import DeltaQueue
from gen_worker.runtime.worker.doubt import Doubt
from gen_worker.runtime.worker.signals import SignalQueue
from gen_worker.runtime.worker.telemetry_queue import TelemetryQueue, request_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.wire import (
        DiagnosticLog,
        JobResult,
        Outbound,
        WorkerEvent,
    )
    from gen_worker.runtime.worker.deltas import Gate

__all__ = ["Outbox", "OutboxLimits", "OutboxStatistics", "Outgoing", "Role"]

_log = logging.getLogger("gen_worker.worker")

Role = Literal["control", "results", "events"]
ROLES: tuple[Role, ...] = ("control", "results", "events")
Kind = Literal["control", "result", "delta", "end", "telemetry"]


class OutboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what waits."""

    max_output_bytes: int = 256 * 1024
    """Of one request's streamed output; then its handler waits."""
    max_total_output_bytes: int = 64 * 1024 * 1024
    max_signals: int = 1024
    """Messages of the control stream; then the oldest is dropped."""
    max_telemetry: int = 1024
    """Events and diagnostics; then the oldest is shed."""
    max_doubt_bytes: int = 8 * 1024 * 1024
    """Of what was written last and may have to be written again, for each stream."""
    settle_s: float = 20.0
    """After which what was written has arrived, if its stream still lives: the transport needs as
    long to notice that the other end is gone."""
    max_message_bytes: int = 65_536
    """Of the JSON of one message of merged text."""
    merges_text: bool = True
    """Whether plain text that waits is written as one message."""


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to a stream. Thousands may be in doubt: no collection visits them."""

    data: bytes
    kind: Kind
    request_id: str = ""
    is_final: bool = False
    """Of a result: whether it also answers its request when that comes again. One that ended a
    stream does not, nor one that asks for another try."""
    key: object = None
    """Of a signal: whatever waits under an equal one says the same."""


class OutboxStatistics(NamedTuple):
    """What waits, and what was lost."""

    control: int
    results: int
    deltas: int
    telemetry: int
    in_doubt: int
    shed: int
    """Events and diagnostics that were dropped, ever."""
    replaced: int = 0
    """Signals that a newer one took the place of, ever."""
    dropped: int = 0
    """Signals that were dropped for want of room, ever."""


class Outbox:
    """Queues of one worker, for as long as it lives. On the loop's thread, but for `tell`.

    A stream asks for the `next` message of its role, and says whether it was `written`.
    """

    def __init__(
        self, limits: OutboxLimits, *, clock: Callable[[], float], wake: Callable[[Role], None]
    ) -> None:
        """Start with nothing to say.

        Args:
            limits: Bounds.
            clock: Seconds.
            wake: Told which stream has something new to write, in any thread.
        """
        self._limits = limits
        self._clock = clock
        self._wake = wake
        self._is_split = False
        self._control = SignalQueue(limits.max_signals)
        self._results: OrderedDict[str, Outgoing] = OrderedDict()
        """By request, in the order to write them."""
        self._held: dict[str, Outgoing] = {}
        """Results whose streamed output, or what was told of whose request, is not written yet."""
        self._again: deque[Outgoing] = deque()
        """Deltas and ends of a lost connection."""
        self._ending: set[str] = set()
        """Requests whose end marker is not written yet."""
        self._deltas = DeltaQueue(
            max_bytes=limits.max_output_bytes,
            max_total_bytes=limits.max_total_output_bytes,
            max_message_bytes=limits.max_message_bytes,
            merges=limits.merges_text,
        )
        self._telemetry = TelemetryQueue(limits.max_telemetry)
        self._shed = 0
        """Of telemetry, when it was last looked whether a result had waited for that."""
        self._telemetry_is_next = True
        self._results_in_doubt: Doubt[Outgoing] = Doubt(limits.max_doubt_bytes)
        self._output_in_doubt: Doubt[Outgoing] = Doubt(limits.max_doubt_bytes)
        self._answers: dict[str, Outgoing] = {}
        """Results that are being written or in doubt, by request; of several the newest."""

    # What the worker says.

    def control(self, message: Outbound, *, replaces: object = None) -> None:
        """Take a signal or an answer to a command.

        Args:
            message: Any message of the control stream.
            replaces: Whatever waits under an equal key is not sent: what is newer says it all.
        """
        self._control.put(Outgoing(encode(message), "control", key=replaces))
        self._wake("control")

    def forget(self, key: object) -> None:
        """Do not send what waits under a key."""
        self._control.discard(key)

    def result(self, result: JobResult) -> None:
        """Take the one result of a request; it goes out after all that was said of the request."""
        is_streamed = result.request_id in self._ending
        is_final = not is_streamed and not result.retryable
        outgoing = Outgoing(encode(result), "result", result.request_id, is_final)
        if is_streamed or self._telemetry.is_about(result.request_id):
            self._held[result.request_id] = outgoing
        else:
            self._write(outgoing)

    def delta(self, delta: TokenDelta, gate: Gate) -> None:
        """Take an item of a streamed output; beyond the bound `gate` is paused for a while."""
        self._deltas.put(delta, gate)
        self._wake("events" if self._is_split else "control")

    def end(self, marker: StreamDone | StreamError) -> None:
        """Take the end of a streamed output."""
        self._ending.add(marker.request_id)
        self._deltas.end(marker)
        self._wake("events" if self._is_split else "control")

    def tell(self, event: WorkerEvent | DiagnosticLog) -> bool:
        """Take telemetry, in any thread; False when something older was shed for it."""
        has_room = self._telemetry.put(event)
        self._wake("events" if self._is_split else "control")
        return has_room

    # What the streams ask.

    def split(self, is_split: bool) -> None:
        """Say whether results and events have streams of their own."""
        self._is_split = is_split
        self._wake_all()

    def next(self, role: Role) -> Outgoing | None:
        """Return what a stream is to write now; None when there is nothing."""
        if self._held and self._shed != self._telemetry.shed:
            self._shed = self._telemetry.shed
            for request_id in tuple(self._held):
                self._release(request_id)
        if role == "control":
            if (signal := self._control.next()) is not None:
                return signal
            if self._is_split:
                return None
        if role != "events" and self._results:
            request_id, result = self._results.popitem(last=False)
            self._answers[request_id] = result
            return result
        if role != "results":
            return self._next_event()
        return None

    def written(self, outgoing: Outgoing) -> None:
        """Note that a stream took a message."""
        kind = outgoing.kind
        if kind == "result":
            self._results_in_doubt.add(outgoing, self._clock())
        elif kind in ("delta", "end"):
            self._output_in_doubt.add(outgoing, self._clock())
        if kind == "end":
            self._ending.discard(outgoing.request_id)
        elif kind == "telemetry":
            self._telemetry.written(outgoing.request_id)
        if kind != "result" and outgoing.request_id in self._held:
            self._release(outgoing.request_id)

    def returned(self, outgoing: Outgoing) -> None:
        """Take a message back that a stream could not write."""
        match outgoing.kind:
            case "control":
                self._control.put_back(outgoing)
            case "result":
                self._write_first(outgoing)
            case "telemetry":
                self._telemetry.written(outgoing.request_id, is_lost=True)
                self._release(outgoing.request_id)
            case _:
                self._again.appendleft(outgoing)
        self._wake_all()

    def arrived(self, role: Role) -> None:
        """Believe in everything that a stream took."""
        for doubt in self._doubts_of(role):
            doubt.take()

    def lost(self, role: Role) -> None:
        """Note that a stream is gone: what it may have swallowed is to be written again."""
        for doubt in self._doubts_of(role):
            again = doubt.take()
            if doubt is self._results_in_doubt:
                for outgoing in reversed(again):
                    self._write_first(outgoing)
            else:
                self._ending.update(one.request_id for one in again if one.kind == "end")
                self._again.extendleft(reversed(again))
        # A result follows its output, also the second time.
        for request_id in [one for one in self._results if one in self._ending]:
            self._held[request_id] = self._results.pop(request_id)
        self._wake_all()

    def settle(self) -> None:
        """Believe in what was written long enough ago. Called while the connection is healthy."""
        for doubt in (self._results_in_doubt, self._output_in_doubt):
            doubt.settle(self._clock() - self._limits.settle_s)
        self._answers = {one.request_id: one for one in self._results_in_doubt}

    # What is to be known of it.

    def unsent_request_ids(self) -> tuple[str, ...]:
        """Return the requests of which the other end may lack something."""
        outputs = (*self._again, *self._output_in_doubt)
        unsent = (*self._held.values(), *self._results.values(), *self._results_in_doubt, *outputs)
        return tuple(dict.fromkeys(outgoing.request_id for outgoing in unsent))

    def repeat(self, request_id: str) -> bool:
        """Have a result that was made already answer its request a second time.

        One that waits answers both. One that was written and may be lost is written again, unless
        it ended a streamed output, which whoever asks again has not heard either, or asked for
        another try, which this is. Then nothing of the first try is sent any more.

        Returns:
            Whether there is such a result; otherwise the request is to be run.
        """
        if request_id in self._results or request_id in self._held:
            return True
        written = self._answers.get(request_id)
        if written is None:
            return False
        if not written.is_final:
            self._disown(request_id)
            return False
        self._write(written)
        return True

    @property
    def is_empty(self) -> bool:
        """Whether everything is written."""
        waiting = self._results or self._held or self._again or self._control or self._telemetry
        return not waiting and not self._deltas

    def statistics(self) -> OutboxStatistics:
        """Return what waits at this moment."""
        return OutboxStatistics(
            control=len(self._control),
            results=len(self._results) + len(self._held),
            deltas=len(self._deltas) + len(self._again),
            telemetry=len(self._telemetry),
            in_doubt=len(self._results_in_doubt) + len(self._output_in_doubt),
            shed=self._telemetry.shed,
            replaced=self._control.replaced,
            dropped=self._control.dropped,
        )

    def _write(self, result: Outgoing) -> None:
        self._results[result.request_id] = result
        self._wake("results" if self._is_split else "control")

    def _release(self, request_id: str) -> None:
        """Write a result that was held back, if nothing is left for it to follow."""
        if request_id in self._held and not (
            request_id in self._ending or self._telemetry.is_about(request_id)
        ):
            self._write(self._held.pop(request_id))

    def _write_first(self, result: Outgoing) -> None:
        """Have a result written again, unless there is a newer one of its request."""
        request_id = result.request_id
        if request_id not in self._held:
            self._results.setdefault(request_id, result)
            self._results.move_to_end(request_id, last=False)

    def _disown(self, request_id: str) -> None:
        """Forget what was written for a request that is run anew."""
        del self._answers[request_id]
        for doubt in (self._results_in_doubt, self._output_in_doubt):
            doubt.discard(lambda one: one.request_id == request_id)
        self._again = deque(one for one in self._again if one.request_id != request_id)
        self._ending.discard(request_id)

    def _wake_all(self) -> None:
        for role in ROLES:
            self._wake(role)

    def _doubts_of(self, role: Role) -> tuple[Doubt[Outgoing], ...]:
        match role:
            case "results":
                return (self._results_in_doubt,)
            case "events":
                return (self._output_in_doubt,)
            case _ if self._is_split:
                return ()
            case _:
                return (self._output_in_doubt, self._results_in_doubt)

    def _next_event(self) -> Outgoing | None:
        if self._again:
            return self._again.popleft()
        while (message := self._next_message()) is not None:
            try:
                data = encode(message)
            except UnencodableMessageError:
                _log.exception("a message is left out")  # it would break every connection
                if not isinstance(message, (TokenDelta, StreamDone, StreamError)):
                    self._telemetry.written(request_of(message), is_lost=True)
                    self._release(request_of(message))
                continue
            match message:
                case TokenDelta(request_id=request_id):
                    return Outgoing(data, "delta", request_id)
                case StreamDone(request_id=request_id) | StreamError(request_id=request_id):
                    return Outgoing(data, "end", request_id)
                case _:
                    return Outgoing(data, "telemetry", request_of(message))
        return None

    def _next_message(
        self,
    ) -> TokenDelta | StreamDone | StreamError | WorkerEvent | DiagnosticLog | None:
        first = None
        if self._held and self._telemetry_is_next:  # a result may wait for it: it takes turns
            first = self._telemetry.next()
        self._telemetry_is_next = first is None
        return first or self._deltas.next() or self._telemetry.next()
