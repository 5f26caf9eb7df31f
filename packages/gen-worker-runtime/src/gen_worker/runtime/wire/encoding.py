"""Our values into protobuf messages.

Messages are filled where they are: one that is passed to a constructor is copied, bytes and all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.runtime.wire import alike, commands, reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.pb import worker_scheduler_pb2 as pb

__all__ = ["ENVELOPE_FIELDS"]

_AVAILABILITY = {"": 0, "ready": 1, "download_completed": 2, "cached": 3}
_PREFIX_CACHE_CHANGES = {"": 0, "added": 1, "removed": 2}


# -- What the worker says --------------------------------------------------------------------------


def _registration(value: reports.Registration, wire: pb.WorkerRegistration) -> None:
    _resources(value.resources, wire.resources)
    wire.is_heartbeat = value.is_heartbeat
    wire.protocol_major = value.protocol_major
    wire.protocol_minor = value.protocol_minor
    for assignment in value.assignments:
        alike.ASSIGNMENT.fill(assignment, wire.active_assignments.add())
    wire.in_flight_request_ids.extend(value.in_flight_request_ids)
    wire.stream_started_unix_ms = value.stream_started_unix_ms
    wire.supports_split_streams = value.supports_split_streams
    wire.stream_role = value.stream_role


def _resources(value: reports.Resources, wire: pb.WorkerResources) -> None:
    wire.worker_id = value.worker_id
    wire.gpu_count = value.gpu_count
    wire.gpu_memory_bytes = value.gpu_memory_bytes
    wire.available_functions.extend(value.available_functions)
    wire.vram_models.extend(value.vram_models)
    wire.release_id = value.release_id
    wire.runpod_pod_id = value.runpod_pod_id
    wire.gpu_is_busy = value.gpu_is_busy
    wire.gpu_name = value.gpu_name
    wire.gpu_memory_free_bytes = value.gpu_memory_free_bytes
    wire.gpu_sm = value.gpu_sm
    wire.disk_models.extend(value.disk_models)
    wire.installed_libs.extend(value.installed_libs)
    wire.image_digest = value.image_digest
    wire.git_commit = value.git_commit
    wire.loading_functions.extend(value.loading_functions)
    wire.ram_models.extend(value.ram_models)


def _job_result(value: reports.JobResult, wire: pb.JobExecutionResult) -> None:
    wire.request_id = value.request_id
    wire.success = value.success
    if value.payload:
        wire.output_payload = value.payload
    if value.error_type:
        wire.error_type = value.error_type
    if value.retryable:
        wire.retryable = True
    if value.safe_message:
        wire.safe_message = value.safe_message
    if value.observation is not None:
        _observation(value.observation, wire.observation)


def _observation(value: reports.Observation, wire: pb.JobExecutionObservation) -> None:
    wire.release_id = value.release_id
    wire.function_name = value.function
    wire.provider = value.provider
    wire.worker_id = value.worker_id
    wire.status = value.status
    wire.runtime_ms = value.runtime_ms
    wire.local_queue_ms = value.local_queue_ms
    if value.build_profile:
        wire.build_profile = value.build_profile
    if value.image_digest:
        wire.image_digest = value.image_digest
    if value.machine_class:
        wire.machine_class = value.machine_class
    if value.error_type:
        wire.error_type = value.error_type
    if value.peak_memory_bytes:
        wire.peak_memory_bytes = value.peak_memory_bytes
    if value.peak_vram_bytes:
        wire.peak_vram_bytes = value.peak_vram_bytes
    if value.active_count_at_start:
        wire.active_count_at_start = value.active_count_at_start
    if value.local_queued_count_at_start:
        wire.local_queued_count_at_start = value.local_queued_count_at_start
    if value.ttft_ms:
        wire.ttft_ms = value.ttft_ms
    if value.itl_p50_ms:
        wire.itl_p50_ms = value.itl_p50_ms
    if value.prefix_hit_rate_pct:
        wire.prefix_hit_rate_pct = value.prefix_hit_rate_pct
    if value.kv_blocks_used:
        wire.kv_blocks_used = value.kv_blocks_used
    if value.kv_blocks_total:
        wire.kv_blocks_total = value.kv_blocks_total
    if value.scaling_factors:
        wire.scaling_factors.update(value.scaling_factors)


def _worker_event(value: reports.WorkerEvent, wire: pb.WorkerEvent) -> None:
    wire.request_id = value.request_id
    wire.event_type = value.event_type
    wire.payload_json = value.payload_json


def _token_delta(value: reports.TokenDelta, wire: pb.IncrementalTokenDelta) -> None:
    wire.request_id = value.request_id
    wire.item_id = value.item_id
    wire.function_name = value.function
    wire.sequence = value.sequence
    wire.timestamp_unix_ms = value.timestamp_unix_ms
    wire.payload_json = value.payload_json
    if value.delta_text:
        wire.delta_text = value.delta_text
    if value.audio_chunk:
        wire.audio_chunk = value.audio_chunk
    if value.audio_codec:
        wire.audio_codec = value.audio_codec


def _unavailable(
    value: reports.FunctionUnavailable, wire: pb.WorkerFunctionUnavailableSignal
) -> None:
    wire.worker_id = value.worker_id
    wire.release_id = value.release_id
    wire.function_name = value.function
    wire.reason = value.reason
    wire.detail = value.detail
    wire.detected_at_unix = value.detected_at_unix
    wire.axes.update(value.axes)


def _startup_phase(value: reports.StartupPhase, wire: pb.WorkerStartupPhaseSignal) -> None:
    wire.phase = reports.STARTUP_PHASES.get(value.phase, 0)  # type: ignore[assignment]  # a number is what it is
    wire.status = value.status
    wire.scheduler_addr = value.scheduler_addr
    wire.elapsed_ms = value.elapsed_ms
    wire.detail = value.detail


def _model_ready(value: reports.ModelReady, wire: pb.WorkerModelReadySignal) -> None:
    wire.model_id = value.model_id
    wire.kind = _AVAILABILITY[value.kind]  # type: ignore[assignment]


def _prefix_cache(value: reports.PrefixCache, wire: pb.WorkerKVPrefixCache) -> None:
    wire.block_hashes.extend(value.block_hashes)
    wire.block_size = value.block_size
    wire.model_id = value.model_id
    wire.event = _PREFIX_CACHE_CHANGES[value.event]  # type: ignore[assignment]


# -- What the orchestrator says --------------------------------------------------------------------


def _job_request(value: commands.JobRequest, wire: pb.JobExecutionRequest) -> None:
    wire.request_id = value.request_id
    wire.function_name = value.function
    wire.input_payload = value.payload
    wire.timeout_ms = value.timeout_ms
    wire.tenant = value.owner
    wire.invoker_id = value.invoker_id
    wire.file_base_url = value.file_base_url
    wire.job_id = value.job_id
    wire.worker_capability_token = value.capability_token
    for ref, repo in value.repos.items():
        _repo(repo, wire.resolved_repos_by_id[ref])
    if value.compute is not None:
        alike.COMPUTE.fill(value.compute, wire.resolved_compute)
    wire.execution_hints.update(value.hints)
    for slot, model in value.models.items():
        _model(model, wire.resolved_models[slot])


def _model(value: commands.ResolvedModel, wire: pb.ResolvedModelBinding) -> None:
    wire.slot_name = value.slot_name
    wire.ref = value.ref
    wire.tag = value.tag
    wire.flavor = value.flavor
    wire.provider = value.provider
    wire.source = value.source
    wire.checkpoint_id = value.checkpoint_id
    wire.compatibility_status = value.compatibility_status
    wire.compatibility_detail = value.compatibility_detail
    for lora in value.loras:
        alike.LORA.fill(lora, wire.loras.add())


def _repo(value: commands.ResolvedRepo, wire: pb.ResolvedRepo) -> None:
    wire.snapshot_digest = value.snapshot_digest
    for file in value.files:
        wire.files.add(path=file.path, size_bytes=file.size_bytes, blake3=file.blake3, url=file.url)


def _interrupt(value: commands.InterruptJob, wire: pb.InterruptJobCommand) -> None:
    wire.request_id = value.request_id
    wire.item_ids.extend(value.item_ids)
    wire.cancel_queued_only = value.cancel_queued_only
    wire.assignment_attempt_epoch = value.assignment_attempt_epoch


def _endpoint_config(value: commands.EndpointConfig, wire: pb.EndpointConfig) -> None:
    wire.supported_repo_refs.extend(value.supported_refs)
    wire.repo_ref_by_key.update(value.ref_by_key)
    for ref, repo in value.repos.items():
        _repo(repo, wire.resolved_repos_by_ref[ref])
    wire.required_flavor_refs.extend(value.required_refs)
    for function, models in value.models_by_function.items():
        keyed = wire.models_by_function[function].models
        for key, ref in models.items():
            keyed[key].ref = ref
    for disabled in value.disabled_functions:
        alike.DISABLED_FUNCTION.fill(disabled, wire.disabled_functions.add())
    for function, statuses in value.ref_status_by_function.items():
        by_key = wire.ref_availability_by_function[function].by_model_key
        for key, status in statuses.items():
            alike.REF_STATUS.fill(status, by_key[key])


ENVELOPE_FIELDS: Mapping[type, tuple[str, Callable[[Any, Any], None]]] = {
    reports.Registration: ("worker_registration", _registration),
    reports.JobResult: ("job_result", _job_result),
    reports.LoadModelResult: ("load_model_result", alike.LOAD_RESULT.fill),
    reports.UnloadModelResult: ("unload_model_result", alike.UNLOAD_RESULT.fill),
    reports.WorkerEvent: ("worker_event", _worker_event),
    reports.TokenDelta: ("incremental_token_delta", _token_delta),
    reports.StreamDone: ("incremental_token_stream_done", alike.STREAM_DONE.fill),
    reports.StreamError: ("incremental_token_stream_error", alike.STREAM_ERROR.fill),
    reports.FunctionUnavailable: ("worker_function_unavailable", _unavailable),
    reports.DrainResult: ("worker_drain_result", alike.DRAIN_RESULT.fill),
    reports.StartupPhase: ("worker_startup_phase", _startup_phase),
    reports.ModelReady: ("worker_model_ready", _model_ready),
    reports.FunctionCapabilities: ("worker_function_capabilities", alike.CAPABILITIES.fill),
    reports.PrefixCache: ("worker_kv_prefix_cache", _prefix_cache),
    reports.DiagnosticLog: ("worker_diagnostic_log", alike.DIAGNOSTIC_LOG.fill),
    commands.JobRequest: ("job_request", _job_request),
    commands.LoadModel: ("load_model_cmd", alike.LOAD.fill),
    commands.DownloadModel: ("download_model_cmd", alike.DOWNLOAD.fill),
    commands.UnloadModel: ("unload_model_cmd", alike.UNLOAD.fill),
    commands.InterruptJob: ("interrupt_job_cmd", _interrupt),
    commands.EndpointConfig: ("endpoint_config", _endpoint_config),
    commands.Drain: ("worker_drain_cmd", alike.DRAIN.fill),
}
"""Which field of the envelope a value goes into, and who fills it."""
