"""Run endpoint functions: one engine for every shape and every transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.engine import (
        SYSTEM_CLOCK,
        Alarm,
        Clock,
        Engine,
        EngineLimits,
        EngineStatistics,
        Format,
        Invocation,
        Latency,
        Outcome,
        RunningCall,
        Sink,
    )

__all__ = [
    "SYSTEM_CLOCK",
    "Alarm",
    "Clock",
    "Engine",
    "EngineLimits",
    "EngineStatistics",
    "Format",
    "Invocation",
    "Latency",
    "Outcome",
    "RunningCall",
    "Sink",
]

_MODULES = {"engine": tuple(__all__)}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
