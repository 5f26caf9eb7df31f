"""One job under way: what the engine makes of it, on its way to the outbox."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from gen_worker.errors import classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.runtime.engine import CallToken
from gen_worker.runtime.wire.refs import ref_index
from gen_worker.runtime.worker.observing import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.errors import Failure
    from gen_worker.events import Event
    from gen_worker.runtime.engine import Invocation, RunningCall
    from gen_worker.runtime.telemetry.memory import MemoryGauge
    from gen_worker.runtime.wire import JobRequest, ResolvedRepo
    from gen_worker.runtime.worker.outbox import Outbox
    from gen_worker.runtime.worker.serving import Served

__all__ = ["Desk", "Job"]


class Desk(Protocol):
    """Where jobs come from and go back to. On the loop."""

    @property
    def outbox(self) -> Outbox: ...
    @property
    def gauge(self) -> MemoryGauge: ...
    def unix_ms(self) -> int: ...
    def finish(self, job: Job, outcome: Result | Failed) -> None:
        """Answer a job."""
        ...


class Job:
    """One request under way, and the engine's sink for it."""

    wants_events = False
    call: RunningCall
    """Set once it is submitted; its handler may be ahead of that."""
    failure: Failure | None = None
    """Why it fails although its handler did not."""
    _repos: Mapping[str, ResolvedRepo] | None = None

    def __init__(
        self,
        desk: Desk,
        request: JobRequest,
        served: Served,
        invocation: Invocation,
        *,
        others: int,
        queued: int,
    ) -> None:
        self.request = request
        self.invocation = invocation
        self.token = CallToken()
        self.served = served
        self.began_at = perf_counter()
        """Seconds of `time.perf_counter`."""
        self.others = others
        """Jobs that were under way when it came; `queued` of all of them waited."""
        self.pace = Pace(self.began_at) if served.is_streamed else None
        self.stopped_items: frozenset[str] = frozenset()
        self.queued = queued
        self.memory = desk.gauge.begin()
        self._desk = desk

    def __repr__(self) -> str:
        return f"<Job {self.request.request_id!r} of {self.request.function}>"

    @property
    def repos(self) -> Mapping[str, ResolvedRepo]:
        """What the request says that refs mean, by every spelling of a ref."""
        if self._repos is None:
            self._repos = ref_index(self.request.repos)
        return self._repos

    def deliver(self, batch: Sequence[Event]) -> None:
        """Pass on what the call produced; see `gen_worker.runtime.engine.Sink`."""
        last = batch[-1]
        # By `type`: `isinstance` asks a struct's metaclass, which costs more than the rest of this.
        outcome = last if type(last) is Result or type(last) is Failed else None
        if self.pace is not None:
            items = batch if outcome is None else batch[:-1]
            if items:
                self._stream(items)
        if outcome is not None:
            self._desk.finish(self, outcome)

    def _stream(self, items: Sequence[Event]) -> None:
        now_ms = self._desk.unix_ms()
        form, request_id = self.served.form, self.request.request_id
        outbox, call = self._desk.outbox, self.call
        assert self.pace is not None
        self.pace.note(len(items), perf_counter())
        for item in items:
            if type(item) is Delta and self.failure is None:
                try:
                    delta = form.delta(item.value, request_id=request_id, timestamp_unix_ms=now_ms)
                except Exception as error:  # an item that JSON has no words for
                    self.failure = classify(error)
                    self.token.cancel("disconnect")
                    return
                if delta.item_id not in self.stopped_items:
                    outbox.delta(delta, call)
