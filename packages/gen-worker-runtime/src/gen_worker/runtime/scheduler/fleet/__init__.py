"""The workers that are known: what they have, what they were given, when they were heard of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.fleet.fleet import Fleet
    from gen_worker.runtime.scheduler.fleet.views import ModelView, WorkerView

__all__ = ["Fleet", "ModelView", "WorkerView"]

_MODULES = {"fleet": ("Fleet",), "views": ("ModelView", "WorkerView")}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
