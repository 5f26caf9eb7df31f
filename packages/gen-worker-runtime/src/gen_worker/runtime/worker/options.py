"""How a worker works, as one value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.engine import EngineLimits
from gen_worker.runtime.telemetry.telemetry import TelemetryPolicy
from gen_worker.runtime.wire import MAX_OUTPUT_BYTES
from gen_worker.runtime.worker.gpus import GpuFacts, fake_gpus, find_gpus
from gen_worker.runtime.worker.leaving import LeavingTimes
from gen_worker.runtime.worker.outbox import OutboxLimits
from gen_worker.settings import load_settings

if TYPE_CHECKING:
    from gen_worker.runtime.worker.settings import WorkerSettings

__all__ = ["WorkerOptions", "options_of", "outbox_limits_of"]

_MAX_DELTA_BYTES = MAX_OUTPUT_BYTES // 8
"""An item's text is in its message twice, once as JSON, where a character may take six bytes."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works; where it connects to is its `LinkPolicy`."""

    token: str = ""
    worker_id: str = ""
    """For a token that names none."""
    runpod_pod_id: str = ""
    splits: bool = True
    """Whether results and events may have streams of their own."""
    heartbeat_s: float = 10.0
    max_concurrency: int = 0
    """Requests at the same time; 0 is no limit."""
    times: LeavingTimes = LeavingTimes()
    limits: EngineLimits = EngineLimits()
    gpus: tuple[GpuFacts, ...] = ()
    telemetry: TelemetryPolicy = TelemetryPolicy()
    cas_dir: str = ""
    """Where models are; empty tells nothing of the disk."""
    traces_endpoint: str = ""
    """Base URL of the collector that spans go to."""
    emits_tiers: bool = False
    """Whether the orchestrator is told which memory a model came to."""
    ready_on_connect: bool = False
    """Whether the event `model.ready` follows each connect."""
    parallel_downloads: int = 2
    config_grace_s: float = 5.0
    """That an orchestrator may take to say what refs mean, before models are fetched without."""
    renewal_s: float = 30.0
    """That it may take to send new URLs of a model."""


def options_of(settings: WorkerSettings) -> WorkerOptions:
    """Return how a worker works as its operator says.

    Raises:
        SettingsError: A setting is not understood.
    """
    from gen_worker.models.settings import load_model_settings
    from gen_worker.runtime.telemetry.settings import load_telemetry_settings

    core, telemetry = load_settings(), load_telemetry_settings()
    return WorkerOptions(
        token=settings.token,
        worker_id=settings.worker_id,
        runpod_pod_id=settings.runpod_pod_id,
        splits=settings.split_streams,
        max_concurrency=settings.max_concurrency,
        times=LeavingTimes(drain_s=settings.drain_timeout_s),
        limits=EngineLimits(
            max_input_bytes=core.max_input_bytes,
            max_output_bytes=core.max_output_bytes,
            max_output_delta_bytes=min(
                core.max_output_delta_bytes or _MAX_DELTA_BYTES, _MAX_DELTA_BYTES
            ),
            max_deltas=core.max_output_delta_events,
        ),
        gpus=_gpus(settings),
        telemetry=TelemetryPolicy.of(telemetry),
        cas_dir=core.cas_dir,
        traces_endpoint=telemetry.traces_endpoint,
        emits_tiers=settings.emit_residency_tier,
        ready_on_connect=settings.ready_on_connect,
        parallel_downloads=load_model_settings().max_downloads,
    )


def outbox_limits_of(settings: WorkerSettings) -> OutboxLimits:
    """Return how much may wait to be written, and in which pieces text is written."""
    limits = OutboxLimits(merges_text=settings.merges_text)
    max_bytes = load_settings().max_output_delta_bytes
    if not max_bytes:  # no limit of the operator's; a message has one all the same
        return limits
    return msgspec.structs.replace(limits, max_message_bytes=max_bytes)


def _gpus(settings: WorkerSettings) -> tuple[GpuFacts, ...]:
    if not settings.fake_gpu_count:
        return find_gpus()
    return fake_gpus(
        settings.fake_gpu_count, settings.fake_gpu_memory_bytes, settings.fake_gpu_name
    )
