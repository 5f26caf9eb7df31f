"""Files of clients and workers: uploads, inputs and outputs, and who may touch which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.files.passes import JobPass, Passes

__all__ = ["JobPass", "Passes"]

_MODULES = {"passes": ("JobPass", "Passes")}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
