"""Thin trainers around engines that loop by themselves: libraries, scripts and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.trainer.adapters.command import CommandTrainer
    from gen_worker.trainer.adapters.huggingface import HuggingFaceTrainer, reporting_callback
    from gen_worker.trainer.adapters.script import ScriptRun, ScriptTrainer

__all__ = [
    "CommandTrainer",
    "HuggingFaceTrainer",
    "ScriptRun",
    "ScriptTrainer",
    "reporting_callback",
]

_MODULES = {
    "command": ("CommandTrainer",),
    "huggingface": ("HuggingFaceTrainer", "reporting_callback"),
    "script": ("ScriptRun", "ScriptTrainer"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
