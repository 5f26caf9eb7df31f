"""Every event that a worker sends by itself: its name, whom it is about, and what it says.

The section Observability of `docs/endpoint-authoring.md` is made from this module. Payloads are
JSON objects, and each carries `timestamp`, Unix time in seconds, as well. What is not known is
left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from gen_worker.runtime.telemetry.payloads import (
    ClassFailed,
    ComputeMoment,
    CopyCompleted,
    DiskInventory,
    DownloadCompleted,
    DownloadFailed,
    DownloadProgress,
    DownloadStarted,
    Draining,
    DrainStatus,
    Duration,
    InferenceCompleted,
    InferenceFailed,
    InferenceStarted,
    JobMetrics,
    LoadCompleted,
    LoadFailed,
    LoadStarted,
    Log,
    LoopBlocked,
    LowVramMode,
    ModelDone,
    ModelUnloadFailed,
    OfFunction,
    OfModel,
    OutOfMemoryRetry,
    Payload,
    Progress,
    PublishFailed,
    RequestCompleted,
    RequestFailed,
    RequestReceived,
    RequestRejected,
    RequestStarted,
    ResolveCompleted,
    ResolveFailed,
    ResolveStarted,
    Stuck,
    TelemetryShed,
    Tokens,
    UploadProgress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CATALOG",
    "REPLACED",
    "Event",
    "find",
    "problems_of",
    "table",
]

Scope = Literal["request", "worker"]


class Event(NamedTuple):
    """One event, or some that say the same of different things."""

    names: tuple[str, ...]
    scope: Scope
    payload: type[Payload]
    says: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of its payload besides `timestamp`."""
        return tuple(name for name in self.payload.__struct_fields__ if name != "timestamp")

    @property
    def required(self) -> frozenset[str]:
        """Return the keys that are always there."""
        fields = msgspec.structs.fields(self.payload)
        return frozenset(field.encode_name for field in fields if field.required)


def _request(payload: type[Payload], says: str, *names: str) -> Event:
    return Event(tuple(f"request.{name}" for name in names), "request", payload, says)


def _metric(payload: type[Payload], says: str, *names: str) -> Event:
    return Event(tuple(f"metrics.{name}" for name in names), "request", payload, says)


def _worker(payload: type[Payload], says: str, *names: str) -> Event:
    return Event(names, "worker", payload, says)


def _files(payload: type[Payload], says: str, name: str) -> tuple[Event, Event]:
    """Return the event of files that a request waits for, and that of any other's."""
    return (
        Event((f"model.{name}",), "request", payload, f"{says}, for a request"),
        Event((f"worker.model.{name}",), "worker", payload, f"{says}, for nobody yet"),
    )


_KINDS = ("inference", "training")
_ALL_KINDS = (*_KINDS, "conversion", "dataset")

CATALOG: tuple[Event, ...] = (
    _request(RequestReceived, "a job is here", "received"),
    _request(RequestStarted, "it was let in", "started"),
    _request(RequestRejected, "it was not let in", "rejected"),
    _request(ResolveStarted, "a model is looked up and fetched", "model_resolve.started"),
    _request(ResolveCompleted, "its files are here", "model_resolve.completed"),
    _request(ResolveFailed, "there is no such model, or not here", "model_resolve.failed"),
    _request(LoadStarted, "a model is brought onto the device", "model_load.started"),
    _request(LoadCompleted, "it is there", "model_load.completed"),
    _request(LoadFailed, "it could not be loaded", "model_load.failed"),
    _request(InferenceStarted, "the function is called", *(f"{kind}.started" for kind in _KINDS)),
    _request(InferenceCompleted, "it returned", *(f"{kind}.completed" for kind in _KINDS)),
    _request(InferenceFailed, "it raised, or was canceled", *(f"{kind}.failed" for kind in _KINDS)),
    _request(
        Stuck,
        "a step takes longer than `WORKER_WARN_…_S`, or a handler goes on though it was canceled",
        "model_resolve.stuck",
        "model_load.stuck",
        *(f"{kind}.stuck" for kind in _ALL_KINDS),
        "input.stuck",
        "output.stuck",
    ),
    _request(RequestCompleted, "the result is on its way", "completed"),
    _request(RequestFailed, "the failure is on its way", "failed"),
    _request(OfFunction, "a conversion or training was canceled", "cancelled"),
    _request(Progress, "`ctx.progress`, and the steps of a pipeline", "progress"),
    _request(Log, "`ctx.log`", "log"),
    _request(UploadProgress, "an output stream is being written", "upload_progress"),
    Event(
        ("inference.oom_retry",),
        "request",
        OutOfMemoryRetry,
        "the function is called again with its models one step down",
    ),
    Event(
        ("transform.publish_failed", "dataset.publish_failed"),
        "request",
        PublishFailed,
        "a job produced something that could not be published",
    ),
    _metric(
        ComputeMoment, "work on a request begins, ends", "compute.started", "compute.completed"
    ),
    _metric(
        Duration,
        "time spent on fetching models, loading them, in the function",
        "fetch",
        "gpu_load",
        "inference",
    ),
    _metric(
        Tokens,
        "what a transformers model generated; with an engine of your own, `ctx.emit` it",
        "tokens",
    ),
    _metric(JobMetrics, "what a request cost; once, last", "job"),
    *_files(DownloadStarted, "files of a model are fetched", "download.started"),
    *_files(DownloadProgress, "how far that is", "download.progress"),
    *_files(DownloadCompleted, "they are here", "download.completed"),
    *_files(DownloadFailed, "they are not", "download.failed"),
    *_files(CopyCompleted, "a model on NFS was copied to the local disk", "copy.completed"),
    _worker(OfModel, "download URLs ran out and are asked for again", "model.url_refresh"),
    _worker(
        OfModel,
        "the hub is silent, and a tag means what it meant last",
        "model.resolve.last_known",
    ),
    _worker(Payload, "a connection is open, if `WORKER_MODELS_READY_ON_CONNECT`", "model.ready"),
    _worker(OfModel, "a model's files become an object", "model.load.started"),
    _worker(
        ModelDone,
        "they did, or not (`error_type`)",
        "model.load.completed",
        "model.load.failed",
    ),
    _worker(OfModel, "a model's memory is given back", "model.unload.started"),
    _worker(ModelDone, "it was", "model.unload.completed"),
    _worker(
        ModelUnloadFailed, "it was not; `reason` is `in_use` for one in use", "model.unload.failed"
    ),
    _worker(DiskInventory, "other models are on the disk than before", "models.disk_inventory"),
    _worker(LowVramMode, "a model takes a step down the memory ladder", "low_vram_mode_applied"),
    _worker(
        ClassFailed,
        "`setup` or `warmup` of a class failed",
        "worker.function_unavailable",
        "worker.warmup_failed",
    ),
    _worker(Draining, "it was told to stop", "worker.draining"),
    _worker(DrainStatus, "how draining goes", "worker.drain.status"),
    _worker(
        LoopBlocked,
        "its event loop turns again; something had blocked it for `WORKER_WARN_LOOP_BLOCKED_S` or "
        "longer",
        "worker.loop_blocked",
    ),
    _worker(TelemetryShed, "events were dropped for want of room", "worker.telemetry.shed"),
)

REPLACED: Mapping[str, str] = {
    "model.cached": "ModelReady",
    "worker.startup.phase": "StartupPhase",
    "worker.function_capabilities": "FunctionCapabilities",
    "output.delta": "TokenDelta",
    "output.completed": "StreamDone",
    "output.error": "StreamError",
}
"""Events of older workers, and the message that says the same today."""

_BY_NAME = {name: event for event in CATALOG for name in event.names}


def find(name: str) -> Event | None:
    """Return the event of this name; None for an author's own."""
    return _BY_NAME.get(name)


def problems_of(name: str, payload: Mapping[str, Any], *, request_id: str = "") -> list[str]:
    """Return how an event that was sent differs from the catalog; for tests.

    Args:
        name: Of the event.
        payload: As it was sent.
        request_id: As it was sent.
    """
    event = find(name)
    if event is None:
        return [f"{name} is in no catalog"]
    present = payload.keys() - {"timestamp"}
    problems = [f"{name} lacks {key}" for key in sorted(event.required - present)]
    problems += [f"{name} has {key} besides" for key in sorted(present - {*event.keys})]
    if (event.scope == "request") is not bool(request_id):
        problems.append(f"{name} is about a {event.scope}, and its request id is {request_id!r}")
    return problems


def table() -> str:
    """Return the catalog as the Markdown table of the documentation."""
    rows = ["| event | about | says | payload |", "|---|---|---|---|"]
    for event in CATALOG:
        names = ", ".join(f"`{name}`" for name in event.names)
        keys = ", ".join(f"`{key}`" for key in event.keys)
        rows.append(f"| {names} | {event.scope} | {event.says} | {keys} |")
    return "".join(f"{row}\n" for row in rows)
