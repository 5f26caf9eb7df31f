"""An engine's figures in the text format of Prometheus, for hosts that measure nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.engine import EngineStatistics

__all__ = ["engine_metrics"]

_GAUGES = {
    "running": "calls inside their handler",
    "queued": "calls waiting for files, models, a slot or a thread",
    "stuck_threads": "handlers that ignore their cancel",
    "threads": "threads for blocking handlers",
}
_COUNTERS = {
    "completed": "calls that succeeded",
    "failed": "calls that failed",
    "canceled": "calls that were canceled",
    "refused": "calls refused as overloaded",
    "shed_events": "telemetry dropped because its reader was behind",
}


def engine_metrics(figures: EngineStatistics) -> bytes:
    lines: list[str] = []
    for kind, table in (("gauge", _GAUGES), ("counter", _COUNTERS)):
        for name, meaning in table.items():
            metric = f"gen_worker_{name}" + ("_total" if kind == "counter" else "")
            lines += [
                f"# HELP {metric} {meaning}",
                f"# TYPE {metric} {kind}",
                f"{metric} {getattr(figures, name)}",
            ]
    return ("\n".join(lines) + "\n").encode()
