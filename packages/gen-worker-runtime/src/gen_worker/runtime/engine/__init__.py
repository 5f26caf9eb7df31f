"""The one path every call takes."""

from gen_worker.runtime.engine.call_token import CallToken
from gen_worker.runtime.engine.calls import RunningCall
from gen_worker.runtime.engine.deadlines import SYSTEM_CLOCK, Alarm, Clock
from gen_worker.runtime.engine.engine import Engine
from gen_worker.runtime.engine.invocation import EngineLimits, Format, Invocation, Outcome, Sink
from gen_worker.runtime.engine.statistics import EngineStatistics, Latency

__all__ = [
    "SYSTEM_CLOCK",
    "Alarm",
    "CallToken",
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
