"""What telemetry keeps of a request while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gen_worker.runtime.telemetry.job_facts import PayloadFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.engine import RunningCall
    from gen_worker.runtime.telemetry.memory import MemoryUse
    from gen_worker.runtime.telemetry.payloads import ModelMetrics, Payload
    from gen_worker.runtime.telemetry.tracing import Trace
    from gen_worker.runtime.wire import JobRequest
    from gen_worker.spec import FunctionSpec

__all__ = ["FunctionNotes", "ObservedJob", "Served", "Step", "Track"]


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


class FunctionNotes:
    """What is worked out once for all requests of a function."""

    __slots__ = ("facts", "name", "needs_gpu")

    facts: PayloadFacts | None
    """None where the payload says nothing of what a call costs."""

    def __init__(self, spec: FunctionSpec) -> None:
        self.name = spec.name
        self.needs_gpu = spec.resources.needs_gpu
        facts = PayloadFacts(spec)
        self.facts = facts if facts else None


class Track:
    """One request, from its admission to its result."""

    # Defaults of the class: most requests end before any of these is set.
    is_told = False
    """Whether its events go out as they happen; until then they are kept."""
    pending: list[tuple[str, Payload]] | None = None
    called_at: float | None = None
    """When its function was called, on the clock."""
    called_unix = 0.0
    is_called_told = False
    step: Step | None = None
    is_warned = False
    models: dict[str, ModelMetrics] | None = None
    """By parameter."""
    downloads: list[tuple[int, int]] | None = None
    """Bytes and milliseconds, of the model that is being prepared."""
    copies: list[tuple[int, int]] | None = None
    """The same of its copies from NFS to the local disk."""
    loaded_ms: int | None = None
    """Making objects of files; None when all were there."""
    fetch_s: float | None = None
    load_s: float | None = None
    upload_s: float | None = None
    measures: dict[str, float] | None = None
    """What was measured of it elsewhere, such as `warmup_ms`, by name."""
    trace: Trace | None = None

    def __init__(
        self, job: ObservedJob, notes: FunctionNotes, began_at: float, began_unix: float
    ) -> None:
        self.job = job
        self.notes = notes
        self.began_at = began_at
        self.began_unix = began_unix

    @property
    def has_costs(self) -> bool:
        """Whether it used models or stored files, of which its result's observation is silent."""
        return (
            self.models is not None
            or self.measures is not None
            or self.fetch_s is not None
            or self.upload_s is not None
        )

    @property
    def request_id(self) -> str:
        return self.job.request.request_id

    @property
    def function(self) -> str:
        return self.notes.name

    @property
    def phase(self) -> str:
        """What its call is called: the kind of its function; of a `training_function` training."""
        spec = self.job.served.spec
        return "training" if spec.decorator == "training_function" else spec.kind

    @property
    def event(self) -> str:
        """What the events of its call begin with: all that produce weights and datasets train."""
        return "request.inference" if self.phase == "inference" else "request.training"

    def note_upload(self, since: float, until: float) -> None:
        """Book the time of an output that was stored, in seconds of `time.perf_counter`."""
        self.upload_s = (self.upload_s or 0.0) + until - since
        self.note_span("upload", since, until)

    def note_measure(self, name: str, value: float) -> None:
        """Add to what was measured."""
        if self.measures is None:
            self.measures = {}
        self.measures[name] = self.measures.get(name, 0.0) + value

    def measure(self, name: str) -> int | None:
        """Return what was measured under a name; None when nothing was."""
        found = (self.measures or {}).get(name)
        return None if found is None else round(found)

    def note_span(self, name: str, since: float, until: float, **attributes: str) -> None:
        """Remember a part of the request's time for its trace, if it has one."""
        if self.trace is not None:
            self.trace.spans.append((name, since, until, attributes))
