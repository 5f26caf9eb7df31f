"""Gives requests to workers, and takes what they make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.dispatcher.dispatcher import Dispatcher
    from gen_worker.runtime.scheduler.dispatcher.options import DispatchOptions
    from gen_worker.runtime.scheduler.dispatcher.ports import (
        Equipment,
        Facts,
        Functions,
        Outfit,
        Place,
        Queues,
    )

__all__ = [
    "DispatchOptions",
    "Dispatcher",
    "Equipment",
    "Facts",
    "Functions",
    "Outfit",
    "Place",
    "Queues",
]

_MODULES = {
    "dispatcher": ("Dispatcher",),
    "options": ("DispatchOptions",),
    "ports": ("Equipment", "Facts", "Functions", "Outfit", "Place", "Queues"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
