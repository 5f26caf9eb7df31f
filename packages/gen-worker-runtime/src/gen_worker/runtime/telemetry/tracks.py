"""What telemetry keeps of a request while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.engine import RunningCall
    from gen_worker.runtime.telemetry.memory import MemoryUse
    from gen_worker.runtime.telemetry.payloads import ModelMetrics, Payload
    from gen_worker.runtime.telemetry.tracing import Trace
    from gen_worker.runtime.wire import JobRequest
    from gen_worker.spec import FunctionSpec

__all__ = ["ObservedJob", "Served", "Step", "Track"]


class Served(Protocol):
    """The function of a job."""

    @property
    def spec(self) -> FunctionSpec: ...


class ObservedJob(Protocol):
    """A job as telemetry sees it."""

    @property
    def request(self) -> JobRequest: ...
    @property
    def served(self) -> Served: ...
    @property
    def call(self) -> RunningCall: ...
    @property
    def memory(self) -> MemoryUse: ...


class Step(NamedTuple):
    """What a request does at the moment, if it may get stuck there."""

    name: str
    """`model_resolve`, `model_load`, or the kind of the function."""
    facts: Mapping[str, Any]
    """Payload of its start."""
    since: float
    """On the clock."""


class Track:
    """One request, from its admission to its result."""

    __slots__ = (
        "began_at",
        "began_unix",
        "called_at",
        "called_unix",
        "downloads",
        "fetch_s",
        "is_called_told",
        "is_told",
        "is_warned",
        "job",
        "load_s",
        "loaded_ms",
        "models",
        "pending",
        "step",
        "trace",
        "upload_s",
    )

    def __init__(self, job: ObservedJob, began_at: float, began_unix: float) -> None:
        self.job = job
        self.began_at = began_at
        self.began_unix = began_unix
        self.is_told = False
        """Whether its events go out as they happen; until then they are kept."""
        self.pending: list[tuple[str, Payload]] | None = None
        self.called_at: float | None = None
        """When its function was called, on the clock."""
        self.called_unix = 0.0
        self.is_called_told = False
        self.step: Step | None = None
        self.is_warned = False
        self.models: dict[str, ModelMetrics] | None = None
        """By parameter."""
        self.downloads: list[tuple[int, int]] = []
        """Bytes and milliseconds, of the model that is being prepared."""
        self.loaded_ms: int | None = None
        """Making objects of files; None when all were there."""
        self.fetch_s: float | None = None
        self.load_s: float | None = None
        self.upload_s: float | None = None
        self.trace: Trace | None = None

    @property
    def request_id(self) -> str:
        return self.job.request.request_id

    @property
    def function(self) -> str:
        return self.job.served.spec.name

    @property
    def uses_gpu(self) -> bool:
        return self.job.served.spec.resources.needs_gpu

    @property
    def phase(self) -> str:
        """The kind of its function, which is what its call is called."""
        return self.job.served.spec.kind

    @property
    def event(self) -> str:
        """What the events of its call begin with."""
        return "request.training" if self.phase == "training" else "request.inference"

    def note_upload(self, since: float, until: float) -> None:
        """Book the time of an output that was stored, in seconds of `time.perf_counter`."""
        self.upload_s = (self.upload_s or 0.0) + until - since
        self.note_span("upload", since, until)

    def note_span(self, name: str, since: float, until: float, **attributes: str) -> None:
        """Remember a part of the request's time for its trace, if it has one."""
        if self.trace is not None:
            self.trace.spans.append((name, since, until, attributes))
