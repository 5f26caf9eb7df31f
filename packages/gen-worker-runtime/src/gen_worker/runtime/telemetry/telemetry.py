"""Everything a worker reports besides results, put together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gen_worker.events import Emitted, Metric, Started, context_record
from gen_worker.runtime.engine import SYSTEM_CLOCK
from gen_worker.runtime.engine.deadlines import Timers
from gen_worker.runtime.telemetry.diagnostics import (
    DiagnosticSink,
    WorkerIdentity,
    report_exception,
)
from gen_worker.runtime.telemetry.file_steps import ReportedFiles
from gen_worker.runtime.telemetry.metrics import Metrics
from gen_worker.runtime.telemetry.model_steps import ReportedModels
from gen_worker.runtime.telemetry.payloads import DiskInventory
from gen_worker.runtime.telemetry.requests import Requests, WarnAfter
from gen_worker.runtime.telemetry.sending import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.events import Failed, Result
    from gen_worker.events import Telemetry as TelemetryEvent
    from gen_worker.ports import Ports
    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.telemetry.memory import MemoryGauge
    from gen_worker.runtime.telemetry.sending import Teller
    from gen_worker.runtime.telemetry.settings import TelemetrySettings
    from gen_worker.runtime.telemetry.tracing import Tracer
    from gen_worker.runtime.telemetry.tracks import ObservedJob
    from gen_worker.runtime.wire import JobRequest, Observation

__all__ = ["Telemetry", "TelemetryPolicy"]

_log = logging.getLogger("gen_worker.telemetry")


class Refusal(Protocol):
    """Why a request is not let in."""

    @property
    def event(self) -> Mapping[str, Any]: ...


class TelemetryPolicy(NamedTuple):
    """How much is reported."""

    tells_all: bool = False
    """Whether requests that end within 50 ms send all their events, too."""
    warn_after: WarnAfter = WarnAfter()

    @classmethod
    def of(cls, settings: TelemetrySettings) -> TelemetryPolicy:
        """Return what the settings say."""
        warn_after = WarnAfter(
            settings.warn_model_resolve_s, settings.warn_model_load_s, settings.warn_inference_s
        )
        return cls(settings.events == "full", warn_after)


class Telemetry:
    """The `Events` port of a worker, and what watches its jobs.

    `emit` and `tell` are for any thread; everything else is for the loop's. Nothing here blocks or
    raises: a report must not break what it reports on.
    """

    def __init__(
        self,
        teller: Teller,
        *,
        policy: TelemetryPolicy | None = None,
        identity: Callable[[], WorkerIdentity] = WorkerIdentity,
        shed: Callable[[], int] | None = None,
        gauge: MemoryGauge | None = None,
        tracer: Tracer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Begin to report, diagnostics of this process included.

        Args:
            teller: Takes the messages: the worker's outbox.
            policy: How much is reported.
            identity: Says who the worker is.
            shed: Says how many messages `teller` dropped, ever.
            gauge: Measures the memory of requests.
            tracer: Makes spans of requests.
            clock: What times and timers are measured with.
        """
        policy = policy or TelemetryPolicy()
        self.metrics = Metrics()
        self._timers = Timers(clock)
        self._sender = Sender(teller, clock, self._timers, shed)
        self._requests = Requests(
            self._sender,
            clock,
            self._timers,
            tells_all=policy.tells_all,
            warn_after=policy.warn_after,
            gauge=gauge,
        )
        self._tracer = tracer
        self._models: ReportedModels | None = None
        self._diagnostics = DiagnosticSink(self._sender.pass_on, identity)
        self._disk_models: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"<Telemetry, {self._sender.shed} shed>"

    def close(self) -> None:
        """Report nothing more by itself."""
        self._diagnostics.close()
        self._timers.close()
        if self._tracer is not None:
            self._tracer.close()

    def watch(self, ports: Ports) -> Ports:
        """Return ports that tell this of events, models and files, and pass everything on."""
        self._models = ReportedModels(ports.models, self._requests)
        files: Any = ReportedFiles(ports.files, self._requests)
        return msgspec.structs.replace(ports, events=self, models=self._models, files=files)

    # The port.

    def emit(self, event: TelemetryEvent) -> None:
        """Send what an author or a room reports; see `gen_worker.ports.Events`."""
        try:
            if type(event) is Started:
                track = self._requests.called(event)
                if track is not None and self._tracer is not None:
                    self._tracer.called(track)
                return
            if type(event) is Metric:
                self._requests.measured(event)
                return
            if isinstance(event, Emitted) and self._models is not None:
                self._models.heard(event.type, event.payload)
            record = context_record(event)
            if record is not None:
                keys = {"timestamp": record["timestamp"], **record["payload"]}
                self._sender.send_keys(record["type"], keys, record["request_id"])
        except Exception:
            _log.exception("%r is left out", event)

    def tell(self, event: str, payload: Mapping[str, Any], request_id: str = "") -> None:
        """Send an event of the catalog.

        Args:
            event: Its name.
            payload: Its keys.
            request_id: Empty when it is about the worker.
        """
        self._sender.send_keys(event, payload, request_id)

    def disk_models(self, models: Iterable[str], root: str) -> None:
        """Tell which models are on the disk, if they are others than those told last.

        Args:
            models: Their refs.
            root: Directory of their files.
        """
        found = tuple(sorted(models))
        if found == self._disk_models:
            return
        self._disk_models = found
        from gen_worker.models.store.mounts import read_mountinfo, volume_of

        volume = volume_of(root, read_mountinfo())
        inventory = DiskInventory(
            timestamp=self._sender.unix_time(),
            disk_backend=volume.backend,
            disk_fstype=volume.fstype,
            disk_volume_key=volume.key,
            disk_models=found,
        )
        self._sender.send("models.disk_inventory", inventory)

    # Jobs; see `gen_worker.runtime.worker.jobs.JobObserver`.

    def began(self, job: ObservedJob) -> None:
        """Take note of a job that was admitted."""
        try:
            track = self._requests.began(job)
            if self._tracer is not None:
                self._tracer.begin(track, self._sender.unix_time())
        except Exception:
            _log.exception("%r is not reported on", job)

    def refused(self, request: JobRequest, refusal: Refusal) -> None:
        """Take note of a request that is not let in."""
        self._sender.send_keys("request.rejected", refusal.event, request.request_id)
        reason = str(refusal.event["reason"])
        # A caller can make up any name, but no series of figures for it.
        function = "" if reason == "unknown_function" else request.function
        self.metrics.count_refused(function, reason)

    def ended(self, job: ObservedJob, outcome: Result | Failed, observation: Observation) -> None:
        """Take note of its end, right after its result went to the outbox."""
        try:
            track = self._requests.ended(job, outcome, observation)
            function, error_type = job.served.spec.name, observation.error_type
            self.metrics.count_timings(function, error_type or "succeeded", outcome.timings)
            if job.call.sequence:
                self.metrics.count_deltas(function, job.call.sequence)
            if error_type:
                self._report_failure(job, outcome)
            if track is not None and self._tracer is not None:
                self._tracer.end(track, outcome, error_type)
        except Exception:
            _log.exception("the end of %r is not reported", job)

    def _report_failure(self, job: ObservedJob, outcome: Result | Failed) -> None:
        failure = getattr(outcome, "failure", None)
        if failure is not None:
            report_exception(job.request.request_id, job.served.spec.name, failure)
