"""Run endpoint functions: one engine for every shape and every transport."""

from gen_worker.runtime.engine.engine import Engine, RunningCall
from gen_worker.runtime.engine.invocation import EngineLimits, Format, Invocation, Outcome, Sink

__all__ = [
    "Engine",
    "EngineLimits",
    "Format",
    "Invocation",
    "Outcome",
    "RunningCall",
    "Sink",
]
