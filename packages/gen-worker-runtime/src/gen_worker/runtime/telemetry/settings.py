"""What a worker's telemetry reads from its surroundings."""

from __future__ import annotations

from typing import Annotated, Literal

from gen_worker.settings import Setting, SettingsRecord, load
from gen_worker.settings_values import parse_amount

__all__ = ["EventDetail", "LogFormat", "TelemetrySettings", "load_telemetry_settings"]

EventDetail = Literal["auto", "full"]
LogFormat = Literal["text", "json"]


class TelemetrySettings(SettingsRecord, frozen=True, kw_only=True):
    """Events, metrics, traces and logs of a worker."""

    events: Annotated[
        EventDetail,
        Setting(
            env="WORKER_EVENTS",
            group="worker",
            meaning="auto: a request that ends within 50 ms sends metrics.job at most; full: every "
            "request sends all of its events",
        ),
    ] = "auto"
    warn_model_resolve_s: Annotated[
        float,
        Setting(
            env="WORKER_WARN_MODEL_RESOLVE_S",
            group="tuning",
            meaning="seconds after which fetching a model counts as stuck; 0 never",
            parse=parse_amount,
        ),
    ] = 30.0
    warn_model_load_s: Annotated[
        float,
        Setting(
            env="WORKER_WARN_MODEL_LOAD_S",
            group="tuning",
            meaning="seconds after which loading a model counts as stuck; 0 never",
            parse=parse_amount,
        ),
    ] = 60.0
    warn_inference_s: Annotated[
        float,
        Setting(
            env="WORKER_WARN_INFERENCE_S",
            group="tuning",
            meaning="seconds after which a call of the function counts as stuck; 0 never",
            parse=parse_amount,
        ),
    ] = 60.0
    warn_loop_blocked_s: Annotated[
        float,
        Setting(
            env="WORKER_WARN_LOOP_BLOCKED_S",
            group="tuning",
            meaning="seconds after which an event loop that does not turn is told of; 0 never",
            parse=parse_amount,
        ),
    ] = 2.0
    metrics_addr: Annotated[
        str,
        Setting(
            env="WORKER_METRICS_ADDR",
            group="worker",
            meaning="host:port that /metrics, /healthz and /readyz are served on; empty does not",
        ),
    ] = ""
    log_format: Annotated[
        LogFormat,
        Setting(
            env="WORKER_LOG_FORMAT",
            group="worker",
            meaning="how log lines are written: text, or one JSON object each",
        ),
    ] = "text"
    traces_endpoint: Annotated[
        str,
        Setting(
            env="OTEL_EXPORTER_OTLP_ENDPOINT",
            group="worker",
            meaning="URL of the OpenTelemetry collector that spans of requests go to, which needs "
            "the extra otel; empty sends none",
        ),
    ] = ""


def load_telemetry_settings() -> TelemetrySettings:
    """Read the settings of this room."""
    return load(TelemetrySettings)
