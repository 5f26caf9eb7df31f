"""What a worker reports besides results: events, metrics, traces, diagnostics and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.telemetry.diagnostics import WorkerIdentity
    from gen_worker.runtime.telemetry.listener import Probes, open_metrics_server
    from gen_worker.runtime.telemetry.logs import install_logging, log_fatal
    from gen_worker.runtime.telemetry.metrics import Metrics, WorkerFigures
    from gen_worker.runtime.telemetry.requests import WarnAfter
    from gen_worker.runtime.telemetry.settings import TelemetrySettings, load_telemetry_settings
    from gen_worker.runtime.telemetry.telemetry import Telemetry, TelemetryPolicy
    from gen_worker.runtime.telemetry.tracing import Tracer, open_tracer

__all__ = [
    "Metrics",
    "Probes",
    "Telemetry",
    "TelemetryPolicy",
    "TelemetrySettings",
    "Tracer",
    "WarnAfter",
    "WorkerFigures",
    "WorkerIdentity",
    "install_logging",
    "load_telemetry_settings",
    "log_fatal",
    "open_metrics_server",
    "open_tracer",
]

_MODULES = {
    "diagnostics": ("WorkerIdentity",),
    "listener": ("Probes", "open_metrics_server"),
    "logs": ("install_logging", "log_fatal"),
    "metrics": ("Metrics", "WorkerFigures"),
    "requests": ("WarnAfter",),
    "settings": ("TelemetrySettings", "load_telemetry_settings"),
    "telemetry": ("Telemetry", "TelemetryPolicy"),
    "tracing": ("Tracer", "open_tracer"),
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
