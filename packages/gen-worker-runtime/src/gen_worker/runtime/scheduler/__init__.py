"""The scheduler: requests that outlive every process, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.costs import Costs, GpuClass, LearnedCost, ModelSize
    from gen_worker.runtime.scheduler.decisions import (
        Decision,
        Give,
        ModelNeed,
        Needs,
        Never,
        Policy,
        Prediction,
        Wait,
    )
    from gen_worker.runtime.scheduler.draining import drain_order
    from gen_worker.runtime.scheduler.errors import (
        DamagedLedgerError,
        KeyConflictError,
        LedgerInUseError,
        LedgerWriteError,
        UnknownLedgerError,
    )
    from gen_worker.runtime.scheduler.ledger import Ledger, LedgerOptions, LedgerStatistics
    from gen_worker.runtime.scheduler.load_times import LearnedLoad, LoadTimes
    from gen_worker.runtime.scheduler.placement import place
    from gen_worker.runtime.scheduler.retention import Keeping
    from gen_worker.runtime.scheduler.scheduler import Scheduler
    from gen_worker.runtime.scheduler.settings import SchedulerSettings
    from gen_worker.runtime.scheduler.snapshots import (
        DeviceState,
        Hardware,
        Resident,
        WorkerState,
        nearby,
        overload_backoff_s,
    )
    from gen_worker.runtime.scheduler.values import (
        Ending,
        EndStatus,
        NewEvent,
        RequestFilter,
        RequestPage,
        RequestRecord,
        RequestStatus,
        Requeued,
        StoredCall,
        StoredEvent,
        Submission,
        Submitted,
    )
    from gen_worker.runtime.scheduler.waiting import Ticket, Waiting, WaitingLimits

__all__ = [
    "Costs",
    "DamagedLedgerError",
    "Decision",
    "DeviceState",
    "EndStatus",
    "Ending",
    "Give",
    "GpuClass",
    "Hardware",
    "Keeping",
    "KeyConflictError",
    "LearnedCost",
    "LearnedLoad",
    "Ledger",
    "LedgerInUseError",
    "LedgerOptions",
    "LedgerStatistics",
    "LedgerWriteError",
    "LoadTimes",
    "ModelNeed",
    "ModelSize",
    "Needs",
    "Never",
    "NewEvent",
    "Policy",
    "Prediction",
    "RequestFilter",
    "RequestPage",
    "RequestRecord",
    "RequestStatus",
    "Requeued",
    "Resident",
    "Scheduler",
    "SchedulerSettings",
    "StoredCall",
    "StoredEvent",
    "Submission",
    "Submitted",
    "Ticket",
    "UnknownLedgerError",
    "Wait",
    "Waiting",
    "WaitingLimits",
    "WorkerState",
    "drain_order",
    "nearby",
    "overload_backoff_s",
    "place",
]

_MODULES = {
    "costs": (
        "Costs",
        "GpuClass",
        "LearnedCost",
        "ModelSize",
    ),
    "decisions": (
        "Decision",
        "Give",
        "ModelNeed",
        "Needs",
        "Never",
        "Policy",
        "Prediction",
        "Wait",
    ),
    "draining": ("drain_order",),
    "load_times": (
        "LearnedLoad",
        "LoadTimes",
    ),
    "placement": ("place",),
    "snapshots": (
        "DeviceState",
        "Hardware",
        "Resident",
        "WorkerState",
        "nearby",
        "overload_backoff_s",
    ),
    "errors": (
        "DamagedLedgerError",
        "KeyConflictError",
        "LedgerInUseError",
        "LedgerWriteError",
        "UnknownLedgerError",
    ),
    "ledger": ("Ledger", "LedgerOptions", "LedgerStatistics"),
    "retention": ("Keeping",),
    "scheduler": ("Scheduler",),
    "settings": ("SchedulerSettings",),
    "values": (
        "EndStatus",
        "Ending",
        "NewEvent",
        "RequestFilter",
        "RequestPage",
        "RequestRecord",
        "RequestStatus",
        "Requeued",
        "StoredCall",
        "StoredEvent",
        "Submission",
        "Submitted",
    ),
    "waiting": ("Ticket", "Waiting", "WaitingLimits"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
