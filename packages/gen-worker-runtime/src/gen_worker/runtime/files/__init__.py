"""Files of a worker: inputs from anywhere, outputs and publications to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.files.host import WorkerFiles
    from gen_worker.runtime.files.limits import FilePolicy
    from gen_worker.runtime.files.publisher import HubPublisher
    from gen_worker.runtime.files.scope import JobScope
    from gen_worker.runtime.files.settings import FileSettings

__all__ = ["FilePolicy", "FileSettings", "HubPublisher", "JobScope", "WorkerFiles"]

_MODULES = {
    "host": ("WorkerFiles",),
    "limits": ("FilePolicy",),
    "publisher": ("HubPublisher",),
    "scope": ("JobScope",),
    "settings": ("FileSettings",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
