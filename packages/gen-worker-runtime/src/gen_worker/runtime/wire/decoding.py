"""Protobuf messages into our values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.runtime.wire import alike, commands, reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.pb import worker_scheduler_pb2 as pb
    from gen_worker.runtime.wire.codec import Message

__all__ = ["READERS"]

V = TypeVar("V")

_PHASES = {number: phase for phase, number in reports.STARTUP_PHASES.items()}
_AVAILABILITY: dict[int, reports.Availability] = {
    1: "ready",
    2: "download_completed",
    3: "cached",
}
_PREFIX_CACHE_CHANGES: dict[int, reports.PrefixCacheChange] = {1: "added", 2: "removed"}


# -- What the orchestrator says --------------------------------------------------------------------


def _job_request(wire: pb.JobExecutionRequest) -> commands.JobRequest:
    # Asking an empty map for its items costs more than all the rest of a job request.
    repos, hints, models = wire.resolved_repos_by_id, wire.execution_hints, wire.resolved_models
    has_compute = wire.HasField("resolved_compute")
    return commands.JobRequest(
        request_id=wire.request_id,
        function=wire.function_name,
        payload=wire.input_payload,
        timeout_ms=wire.timeout_ms,
        owner=wire.tenant,
        invoker_id=wire.invoker_id,
        file_base_url=wire.file_base_url,
        repos=_entries(repos, _repo) if len(repos) else {},
        job_id=wire.job_id,
        capability_token=wire.worker_capability_token,
        compute=alike.COMPUTE.read(wire.resolved_compute) if has_compute else None,
        hints=dict(hints) if len(hints) else {},
        models=_entries(models, _model) if len(models) else {},
    )


def _model(wire: pb.ResolvedModelBinding) -> commands.ResolvedModel:
    return commands.ResolvedModel(
        slot_name=wire.slot_name,
        ref=wire.ref,
        tag=wire.tag,
        flavor=wire.flavor,
        provider=wire.provider,
        source=wire.source,
        checkpoint_id=wire.checkpoint_id,
        compatibility_status=wire.compatibility_status,
        compatibility_detail=wire.compatibility_detail,
        loras=tuple(map(alike.LORA.read, wire.loras)),
    )


def _repo(wire: pb.ResolvedRepo) -> commands.ResolvedRepo:
    return commands.ResolvedRepo(
        snapshot_digest=wire.snapshot_digest, files=tuple(map(alike.FILE.read, wire.files))
    )


def _interrupt(wire: pb.InterruptJobCommand) -> commands.InterruptJob:
    return commands.InterruptJob(
        request_id=wire.request_id,
        item_ids=tuple(wire.item_ids),
        cancel_queued_only=wire.cancel_queued_only,
        assignment_attempt_epoch=wire.assignment_attempt_epoch,
    )


def _endpoint_config(wire: pb.EndpointConfig) -> commands.EndpointConfig:
    return commands.EndpointConfig(
        supported_refs=tuple(wire.supported_repo_refs),
        ref_by_key=_scalars(wire.repo_ref_by_key),
        repos=_entries(wire.resolved_repos_by_ref, _repo),
        required_refs=tuple(wire.required_flavor_refs),
        models_by_function=_entries(wire.models_by_function, _models),
        disabled_functions=tuple(map(alike.DISABLED_FUNCTION.read, wire.disabled_functions)),
        ref_status_by_function=_entries(wire.ref_availability_by_function, _ref_statuses),
    )


def _models(wire: pb.ModelsByKey) -> dict[str, str]:
    return {key: spec.ref for key, spec in wire.models.items()}


def _ref_statuses(wire: pb.FunctionRefAvailability) -> dict[str, commands.RefStatus]:
    return _entries(wire.by_model_key, alike.REF_STATUS.read)


# -- What the worker says --------------------------------------------------------------------------


def _registration(wire: pb.WorkerRegistration) -> reports.Registration:
    return reports.Registration(
        resources=_resources(wire.resources),
        is_heartbeat=wire.is_heartbeat,
        protocol_major=wire.protocol_major,
        protocol_minor=wire.protocol_minor,
        assignments=tuple(map(alike.ASSIGNMENT.read, wire.active_assignments)),
        in_flight_request_ids=tuple(wire.in_flight_request_ids),
        stream_started_unix_ms=wire.stream_started_unix_ms,
        supports_split_streams=wire.supports_split_streams,
        stream_role=wire.stream_role,
    )


def _resources(wire: pb.WorkerResources) -> reports.Resources:
    return reports.Resources(
        worker_id=wire.worker_id,
        gpu_count=wire.gpu_count,
        gpu_memory_bytes=wire.gpu_memory_bytes,
        gpu_memory_free_bytes=wire.gpu_memory_free_bytes,
        gpu_name=wire.gpu_name,
        gpu_sm=wire.gpu_sm,
        gpu_is_busy=wire.gpu_is_busy,
        available_functions=tuple(wire.available_functions),
        loading_functions=tuple(wire.loading_functions),
        vram_models=tuple(wire.vram_models),
        ram_models=tuple(wire.ram_models),
        disk_models=tuple(wire.disk_models),
        release_id=wire.release_id,
        runpod_pod_id=wire.runpod_pod_id,
        installed_libs=tuple(wire.installed_libs),
        image_digest=wire.image_digest,
        git_commit=wire.git_commit,
    )


def _job_result(wire: pb.JobExecutionResult) -> reports.JobResult:
    has_observation = wire.HasField("observation")
    return reports.JobResult(
        request_id=wire.request_id,
        success=wire.success,
        payload=wire.output_payload,
        error_type=wire.error_type,
        retryable=wire.retryable,
        safe_message=wire.safe_message,
        observation=_observation(wire.observation) if has_observation else None,
    )


def _observation(wire: pb.JobExecutionObservation) -> reports.Observation:
    return reports.Observation(
        release_id=wire.release_id,
        function=wire.function_name,
        build_profile=wire.build_profile,
        image_digest=wire.image_digest,
        provider=wire.provider,
        worker_id=wire.worker_id,
        machine_class=wire.machine_class,
        status=wire.status,
        error_type=wire.error_type,
        runtime_ms=wire.runtime_ms,
        local_queue_ms=wire.local_queue_ms,
        peak_memory_bytes=wire.peak_memory_bytes,
        peak_vram_bytes=wire.peak_vram_bytes,
        active_count_at_start=wire.active_count_at_start,
        local_queued_count_at_start=wire.local_queued_count_at_start,
        ttft_ms=wire.ttft_ms,
        itl_p50_ms=wire.itl_p50_ms,
        prefix_hit_rate_pct=wire.prefix_hit_rate_pct,
        kv_blocks_used=wire.kv_blocks_used,
        kv_blocks_total=wire.kv_blocks_total,
        scaling_factors=_scalars(wire.scaling_factors),
    )


def _worker_event(wire: pb.WorkerEvent) -> reports.WorkerEvent:
    return reports.WorkerEvent(
        request_id=wire.request_id, event_type=wire.event_type, payload_json=wire.payload_json
    )


def _token_delta(wire: pb.IncrementalTokenDelta) -> reports.TokenDelta:
    return reports.TokenDelta(
        request_id=wire.request_id,
        item_id=wire.item_id,
        function=wire.function_name,
        sequence=wire.sequence,
        timestamp_unix_ms=wire.timestamp_unix_ms,
        delta_text=wire.delta_text,
        payload_json=wire.payload_json,
        audio_chunk=wire.audio_chunk,
        audio_codec=wire.audio_codec,
    )


def _unavailable(wire: pb.WorkerFunctionUnavailableSignal) -> reports.FunctionUnavailable:
    return reports.FunctionUnavailable(
        worker_id=wire.worker_id,
        release_id=wire.release_id,
        function=wire.function_name,
        reason=wire.reason,
        detail=wire.detail,
        detected_at_unix=wire.detected_at_unix,
        axes=_scalars(wire.axes),
    )


def _startup_phase(wire: pb.WorkerStartupPhaseSignal) -> reports.StartupPhase:
    return reports.StartupPhase(
        phase=_PHASES.get(wire.phase, ""),
        status=wire.status,
        scheduler_addr=wire.scheduler_addr,
        elapsed_ms=wire.elapsed_ms,
        detail=wire.detail,
    )


def _model_ready(wire: pb.WorkerModelReadySignal) -> reports.ModelReady:
    return reports.ModelReady(model_id=wire.model_id, kind=_AVAILABILITY.get(wire.kind, ""))


def _prefix_cache(wire: pb.WorkerKVPrefixCache) -> reports.PrefixCache:
    return reports.PrefixCache(
        block_hashes=tuple(wire.block_hashes),
        block_size=wire.block_size,
        model_id=wire.model_id,
        event=_PREFIX_CACHE_CHANGES.get(wire.event, ""),
    )


def _entries(wire: Mapping[str, Any], read: Callable[[Any], V]) -> dict[str, V]:
    return {key: read(entry) for key, entry in wire.items()}


def _scalars(wire: Mapping[str, V]) -> dict[str, V]:
    return dict(wire) if len(wire) else {}


READERS: Mapping[str, Callable[[Any], Message]] = {
    "worker_registration": _registration,
    "job_result": _job_result,
    "load_model_result": alike.LOAD_RESULT.read,
    "unload_model_result": alike.UNLOAD_RESULT.read,
    "worker_event": _worker_event,
    "job_request": _job_request,
    "load_model_cmd": alike.LOAD.read,
    "unload_model_cmd": alike.UNLOAD.read,
    "interrupt_job_cmd": _interrupt,
    "endpoint_config": _endpoint_config,
    "incremental_token_delta": _token_delta,
    "incremental_token_stream_done": alike.STREAM_DONE.read,
    "incremental_token_stream_error": alike.STREAM_ERROR.read,
    "worker_function_unavailable": _unavailable,
    "worker_drain_cmd": alike.DRAIN.read,
    "worker_drain_result": alike.DRAIN_RESULT.read,
    "worker_startup_phase": _startup_phase,
    "worker_model_ready": _model_ready,
    "worker_function_capabilities": alike.CAPABILITIES.read,
    "worker_kv_prefix_cache": _prefix_cache,
    "download_model_cmd": alike.DOWNLOAD.read,
    "worker_diagnostic_log": alike.DIAGNOSTIC_LOG.read,
}
"""Who reads which field of the envelope."""
