"""Files of clients and workers: uploads, inputs and outputs, and who may touch which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.files.authority import JobAuthority, LiveJob
    from gen_worker.runtime.scheduler.files.passes import JobPass, Passes
    from gen_worker.runtime.scheduler.files.room import SchedulerFiles
    from gen_worker.runtime.scheduler.files.sweep import FileSweep

__all__ = ["FileSweep", "JobAuthority", "JobPass", "LiveJob", "Passes", "SchedulerFiles"]

_MODULES = {
    "authority": ("JobAuthority", "LiveJob"),
    "passes": ("JobPass", "Passes"),
    "room": ("SchedulerFiles",),
    "sweep": ("FileSweep",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
