"""Run endpoint functions: one engine for every shape and every transport."""

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
