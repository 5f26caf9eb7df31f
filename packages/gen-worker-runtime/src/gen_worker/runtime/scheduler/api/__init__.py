"""The scheduler's HTTP API: what it adds to the one HTTP app, and what it keeps requests in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.api.backend import SchedulerBackend, SchedulerParts
    from gen_worker.runtime.scheduler.api.jobs import LedgerJob, LedgerJobs
    from gen_worker.runtime.scheduler.api.reader import LedgerReader
    from gen_worker.runtime.scheduler.api.worker_routes import IssueWorkerToken, Workers

__all__ = [
    "IssueWorkerToken",
    "LedgerJob",
    "LedgerJobs",
    "LedgerReader",
    "SchedulerBackend",
    "SchedulerParts",
    "Workers",
]

_MODULES = {
    "backend": ("SchedulerBackend", "SchedulerParts"),
    "jobs": ("LedgerJob", "LedgerJobs"),
    "reader": ("LedgerReader",),
    "worker_routes": ("IssueWorkerToken", "Workers"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
