"""What the events of a worker say: one record for the keys of each payload.

Keys with a default are left out while nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = [
    "ClassFailed",
    "ComputeMoment",
    "CopyCompleted",
    "DiskInventory",
    "DownloadCompleted",
    "DownloadFailed",
    "DownloadProgress",
    "DownloadStarted",
    "DrainStatus",
    "Draining",
    "Duration",
    "InferenceCompleted",
    "InferenceFailed",
    "InferenceStarted",
    "JobMetrics",
    "LoadCompleted",
    "LoadFailed",
    "LoadStarted",
    "Log",
    "LoopBlocked",
    "LowVramMode",
    "ModelDone",
    "ModelMetrics",
    "ModelUnloadFailed",
    "OfDownload",
    "OfFunction",
    "OfModel",
    "OutOfMemoryRetry",
    "Payload",
    "Progress",
    "PublishFailed",
    "RequestCompleted",
    "RequestFailed",
    "RequestReceived",
    "RequestRejected",
    "RequestStarted",
    "ResolveCompleted",
    "ResolveFailed",
    "ResolveStarted",
    "Stuck",
    "TelemetryShed",
    "Tokens",
    "UploadProgress",
    "encode_payload",
]

encode_payload = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The keys of one event. Those without a default are always there."""

    timestamp: float = 0.0


class OfFunction(Payload, frozen=True, kw_only=True):
    function_name: str


class RequestReceived(OfFunction, frozen=True, kw_only=True):
    job_id: str = ""
    required_flavor_refs_count: int
    input_bytes: int


class RequestStarted(OfFunction, frozen=True, kw_only=True):
    required_flavor_refs: Sequence[str]
    runtime_batching_config: Mapping[str, Any]
    execution_hints: Mapping[str, Any]


class RequestRejected(Payload, frozen=True, kw_only=True):
    reason: str
    function_name: str = ""
    input_bytes: int = 0
    gpu_index: int | None = None


class ResolveStarted(OfFunction, frozen=True, kw_only=True):
    param_name: str


class ResolveCompleted(ResolveStarted, frozen=True, kw_only=True):
    model_id: str
    model_key: str = ""
    duration_ms: int


class ResolveFailed(ResolveStarted, frozen=True, kw_only=True):
    error_type: str
    duration_ms: int


class LoadStarted(OfFunction, frozen=True, kw_only=True):
    param_name: str
    model_id: str


class LoadCompleted(LoadStarted, frozen=True, kw_only=True):
    duration_ms: int


class LoadFailed(LoadStarted, frozen=True, kw_only=True):
    error_type: str
    duration_ms: int


class InferenceStarted(OfFunction, frozen=True, kw_only=True):
    output_mode: str
    phase: str


class InferenceCompleted(InferenceStarted, frozen=True, kw_only=True):
    duration_ms: int


class InferenceFailed(OfFunction, frozen=True, kw_only=True):
    phase: str
    error_type: str
    duration_ms: int


class Stuck(OfFunction, frozen=True, kw_only=True):
    param_name: str = ""
    model_id: str = ""
    output_mode: str = ""
    phase: str
    warn_after_s: float
    elapsed_ms: int


class RequestCompleted(OfFunction, frozen=True, kw_only=True):
    duration_ms: int


class RequestFailed(OfFunction, frozen=True, kw_only=True):
    error_type: str
    retryable: bool
    safe_message: str


class Progress(Payload, frozen=True, kw_only=True):
    progress: float
    stage: str = ""


class Log(Payload, frozen=True, kw_only=True):
    message: str
    level: str


class UploadProgress(Payload, frozen=True, kw_only=True):
    stage: str
    ref: str
    stream_mode: str
    bytes_written: int
    bytes_uploaded: int
    chunks_written: int
    chunks_uploaded: int
    upload_bps: float
    inst_upload_bps: float
    elapsed_s: float
    error_class: str = ""
    finalize_elapsed_s: float = 0.0


class ComputeMoment(Payload, frozen=True, kw_only=True):
    at: str


class Duration(Payload, frozen=True, kw_only=True):
    ms: int


class Tokens(Payload, frozen=True, kw_only=True):
    output_tokens: int


class ModelMetrics(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one model of a request cost, an entry of `models`."""

    model_id: str
    flavor: str = ""
    snapshot_digest: str = ""
    cache_state: str = ""
    bytes_downloaded: int = 0
    download_ms: int = 0
    bytes_read_disk: int = 0
    disk_fstype: str = ""
    disk_backend: str = ""
    localized: bool = False
    nfs_to_local_copy_ms: int = 0
    bytes_copied: int = 0


class JobMetrics(Payload, frozen=True, kw_only=True):
    schema_version: int
    function_name: str
    cache_state: str = ""
    models: Sequence[ModelMetrics] = ()
    pipeline_init_ms: int | None = None
    gpu_load_ms: int | None = None
    warmup_ms: int | None = None
    inference_ms: int | None = None
    steps: float | None = None
    iters_per_s: float | None = None
    width: float | None = None
    height: float | None = None
    guidance: float | None = None
    png_encode_ms: int | None = None
    upload_ms: int | None = None
    peak_vram_bytes: int | None = None
    peak_ram_bytes: int | None = None


class OfDownload(Payload, frozen=True, kw_only=True):
    model_id: str
    provider: str
    source: str
    request_id: str = ""


class DownloadStarted(OfDownload, frozen=True, kw_only=True):
    estimated_total_bytes: int
    estimated_eta_seconds: float


class DownloadProgress(OfDownload, frozen=True, kw_only=True):
    bytes_downloaded: int
    bytes_total: int
    percent_complete: float
    eta_remaining_seconds: float
    throughput_bytes_per_sec: float


class DownloadCompleted(OfDownload, frozen=True, kw_only=True):
    bytes_total: int
    duration_ms: int


class DownloadFailed(OfDownload, frozen=True, kw_only=True):
    error_type: str
    duration_ms: int


class CopyCompleted(Payload, frozen=True, kw_only=True):
    model_id: str
    request_id: str = ""
    bytes_copied: int
    duration_ms: int


class OfModel(Payload, frozen=True, kw_only=True):
    model_id: str


class ModelDone(OfModel, frozen=True, kw_only=True):
    duration_ms: int
    error_type: str


class ModelUnloadFailed(OfModel, frozen=True, kw_only=True):
    duration_ms: int = 0
    error_type: str = ""
    reason: str = ""


class DiskInventory(Payload, frozen=True, kw_only=True):
    disk_backend: str
    disk_fstype: str
    disk_volume_key: str
    disk_models: Sequence[str]


class LowVramMode(OfModel, frozen=True, kw_only=True):
    stage: str
    requested_mode: str
    attempt: int = 0
    mode: str = ""
    vae_slicing: bool | None = None
    vae_tiling: bool | None = None
    attention_slicing: bool | None = None
    model_offload: bool | None = None
    group_offload: bool | None = None
    sequential_offload: bool | None = None
    fp8_layerwise: bool | None = None
    disk_offload_path: str | None = None
    already_applied: bool | None = None


class OutOfMemoryRetry(OfFunction, frozen=True, kw_only=True):
    attempt: int


class ClassFailed(Payload, frozen=True, kw_only=True):
    class_name: str
    functions: Sequence[str]
    reason: str
    error_type: str
    message: str
    attempt: int


class Draining(Payload, frozen=True, kw_only=True):
    worker_id: str
    in_flight_request_ids: Sequence[str]
    reason: str


class DrainStatus(Payload, frozen=True, kw_only=True):
    reason: str
    status: str
    active_requests: int


class LoopBlocked(Payload, frozen=True, kw_only=True):
    function_name: str = ""
    location: str = ""
    warn_after_s: float
    duration_ms: int


class TelemetryShed(Payload, frozen=True, kw_only=True):
    shed: int
    total: int


class PublishFailed(Payload, frozen=True, kw_only=True):
    ref: str
    error: str
