"""What a worker says to its orchestrator: who it is, results, deltas, events and signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gen_worker.runtime.wire.records import Record
from gen_worker.wire_protocol import WIRE_PROTOCOL_MAJOR, WIRE_PROTOCOL_MINOR

__all__ = [
    "STARTUP_PHASES",
    "Assignment",
    "Availability",
    "DiagnosticLog",
    "DrainResult",
    "FunctionCapabilities",
    "FunctionUnavailable",
    "JobResult",
    "LoadModelResult",
    "ModelReady",
    "Observation",
    "Outbound",
    "PrefixCache",
    "PrefixCacheChange",
    "Registration",
    "Resources",
    "StartupPhase",
    "StreamDone",
    "StreamError",
    "StreamRole",
    "TokenDelta",
    "UnloadModelResult",
    "WorkerEvent",
]

StreamRole = Literal["control", "results", "events"]
Availability = Literal["", "ready", "download_completed", "cached"]
"""In GPU memory, on the disk, warm in a cache; empty is not said or not known here."""
PrefixCacheChange = Literal["", "added", "removed"]

STARTUP_PHASES: Mapping[str, int] = {
    "booting": 1,
    "models_downloading": 2,
    "pipeline_loading": 3,
    "ready": 4,
    "error": 5,
    "warming": 6,
}
"""Phases with a number of their own; any other goes out as 0, which orchestrators ignore."""


class Resources(Record, frozen=True, kw_only=True):
    """What a worker has and can run at the moment. Functions are slugs, models are refs."""

    worker_id: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    """Of GPU 0, as the next three."""
    gpu_memory_free_bytes: int = 0
    gpu_name: str = ""
    gpu_sm: str = ""
    """Compute capability without its dot: `89`."""
    gpu_is_busy: bool = False
    available_functions: tuple[str, ...] = ()
    loading_functions: tuple[str, ...] = ()
    """Some model is still on its way; no requests for now."""
    vram_models: tuple[str, ...] = ()
    ram_models: tuple[str, ...] = ()
    disk_models: tuple[str, ...] = ()
    """Those in host memory are named here too."""
    release_id: str = ""
    runpod_pod_id: str = ""
    installed_libs: tuple[str, ...] = ()
    image_digest: str = ""
    git_commit: str = ""


class Assignment(Record, frozen=True, kw_only=True):
    """Where a worker stands with one assignment."""

    request_id: str
    item_id: str = ""
    attempt_epoch: int = 0
    last_job_result_seq: int = 0
    last_worker_event_seq: int = 0
    last_incremental_seq: int = 0


class Registration(Record, frozen=True, kw_only=True):
    """The first message on each stream; a heartbeat is the same with fresh resources."""

    resources: Resources = Resources()
    is_heartbeat: bool = False
    """True for liveness, and on the two streams besides control. False registers anew."""
    protocol_major: int = WIRE_PROTOCOL_MAJOR
    protocol_minor: int = WIRE_PROTOCOL_MINOR
    assignments: tuple[Assignment, ...] = ()
    in_flight_request_ids: tuple[str, ...] = ()
    """Requests that run here or whose result is not sent yet; empty on heartbeats."""
    stream_started_unix_ms: int = 0
    """When this connection opened; the same in all its messages."""
    supports_split_streams: bool = False
    stream_role: str = ""
    """`control` (or empty), `results`, `events`."""


class Observation(Record, frozen=True, kw_only=True):
    """How one job went; 0 is not measured."""

    release_id: str = ""
    function: str = ""
    build_profile: str = ""
    image_digest: str = ""
    provider: str = ""
    """Where the worker runs: `runpod` or `local`."""
    worker_id: str = ""
    machine_class: str = ""
    status: str = ""
    """`succeeded` or `failed`."""
    error_type: str = ""
    runtime_ms: int = 0
    local_queue_ms: int = 0
    peak_memory_bytes: int = 0
    peak_vram_bytes: int = 0
    active_count_at_start: int = 0
    """Other requests that ran."""
    local_queued_count_at_start: int = 0
    ttft_ms: int = 0
    """From the start to the first delta."""
    itl_p50_ms: int = 0
    """Median time between deltas."""
    prefix_hit_rate_pct: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    scaling_factors: Mapping[str, float] = {}
    """What the cost depended on, such as `steps`."""


class JobResult(Record, frozen=True, kw_only=True):
    """The one answer to a request."""

    request_id: str
    success: bool
    payload: bytes = b""
    """One MessagePack map; empty for streams and failures."""
    error_type: str = ""
    retryable: bool = False
    safe_message: str = ""
    """For the client; at most 500 characters."""
    observation: Observation | None = None


class WorkerEvent(Record, frozen=True, kw_only=True):
    """Something happened, to a request or to the worker."""

    request_id: str = ""
    """Empty: about the worker."""
    event_type: str
    payload_json: bytes = b"{}"


class DiagnosticLog(Record, frozen=True, kw_only=True):
    """A line for operators, never shown to clients."""

    worker_id: str = ""
    release_id: str = ""
    runpod_pod_id: str = ""
    category: str = ""
    severity: str = ""
    message: str = ""
    """At most 1024 characters."""
    payload_json: bytes = b"{}"
    """At most 16 KiB."""
    emitted_at_unix_ms: int = 0


class TokenDelta(Record, frozen=True, kw_only=True):
    """One piece of a streamed output: text, or sound."""

    request_id: str
    item_id: str = "item-0"
    function: str = ""
    sequence: int
    """Counts the messages of a request, from 1."""
    timestamp_unix_ms: int = 0
    delta_text: str = ""
    payload_json: bytes = b""
    """The whole item, less its sound."""
    audio_chunk: bytes = b""
    audio_codec: str = ""
    """Such as `pcm_s16le_24000` or `opus_48000`."""
    text_field: str = ""
    """Never sent: the field that holds all the item says, when it is plain text."""


class StreamDone(Record, frozen=True, kw_only=True):
    """No delta follows."""

    request_id: str
    item_id: str = "item-0"
    function: str = ""
    sequence: int
    """The last delta's, plus 1."""
    timestamp_unix_ms: int = 0


class StreamError(Record, frozen=True, kw_only=True):
    """No delta follows, and the stream is not whole."""

    request_id: str
    item_id: str = "item-0"
    function: str = ""
    sequence: int
    timestamp_unix_ms: int = 0
    error_message: str = ""
    """Safe for the client."""


class LoadModelResult(Record, frozen=True, kw_only=True):
    """The answer to `LoadModel` and `DownloadModel`."""

    model_id: str
    success: bool
    error_message: str = ""
    size_bytes: int = 0
    """In GPU memory; 0 is unknown."""


class UnloadModelResult(Record, frozen=True, kw_only=True):
    """The answer to `UnloadModel`."""

    model_id: str
    success: bool
    error_message: str = ""


class FunctionUnavailable(Record, frozen=True, kw_only=True):
    """A function that cannot run on this machine."""

    worker_id: str = ""
    release_id: str = ""
    function: str
    reason: str
    """`compute_capability_unmet`, `insufficient_vram`, `missing_cuda_library`, …"""
    detail: str = ""
    """At most 1024 characters."""
    detected_at_unix: int = 0
    """Seconds."""
    axes: Mapping[str, str] = {}
    """What there is and what it would take."""


class StartupPhase(Record, frozen=True, kw_only=True):
    """How far a worker has come."""

    phase: str
    """A key of `STARTUP_PHASES`; another is told to nobody, and read back as empty."""
    status: str = ""
    """`ok`, `starting`, `error`, …"""
    scheduler_addr: str = ""
    elapsed_ms: int = 0
    """Since the process started."""
    detail: str = ""
    """`key=value`, separated by spaces."""


class ModelReady(Record, frozen=True, kw_only=True):
    """A model can be used from here."""

    model_id: str
    kind: Availability


class FunctionCapabilities(Record, frozen=True, kw_only=True):
    """What each function needs, and whether it can run here."""

    capabilities_json: bytes
    signature: str
    """SHA-256 of the JSON, lower-case hexadecimal."""


class PrefixCache(Record, frozen=True, kw_only=True):
    """Which prompt prefixes a model's cache holds."""

    block_hashes: tuple[bytes, ...] = ()
    block_size: int = 0
    """Tokens."""
    model_id: str = ""
    event: PrefixCacheChange = ""


class DrainResult(Record, frozen=True, kw_only=True):
    """How draining goes: one at its beginning, one at its end."""

    reason: str = ""
    status: str
    """`draining`, `drained`, `deadline_exceeded`."""
    active_requests: int = 0
    emitted_at_unix_ms: int = 0


Outbound = (
    Registration
    | JobResult
    | WorkerEvent
    | DiagnosticLog
    | TokenDelta
    | StreamDone
    | StreamError
    | LoadModelResult
    | UnloadModelResult
    | FunctionUnavailable
    | StartupPhase
    | ModelReady
    | FunctionCapabilities
    | PrefixCache
    | DrainResult
)
