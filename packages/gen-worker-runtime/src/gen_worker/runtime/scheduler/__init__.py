"""The scheduler: requests that outlive every process, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.errors import (
        DamagedLedgerError,
        KeyConflictError,
        LedgerInUseError,
        LedgerWriteError,
        UnknownLedgerError,
    )
    from gen_worker.runtime.scheduler.ledger import Ledger, LedgerOptions, LedgerStatistics
    from gen_worker.runtime.scheduler.retention import Keeping
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
    "DamagedLedgerError",
    "EndStatus",
    "Ending",
    "Keeping",
    "KeyConflictError",
    "Ledger",
    "LedgerInUseError",
    "LedgerOptions",
    "LedgerStatistics",
    "LedgerWriteError",
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
    "Ticket",
    "UnknownLedgerError",
    "Waiting",
    "WaitingLimits",
]

_MODULES = {
    "errors": (
        "DamagedLedgerError",
        "KeyConflictError",
        "LedgerInUseError",
        "LedgerWriteError",
        "UnknownLedgerError",
    ),
    "ledger": ("Ledger", "LedgerOptions", "LedgerStatistics"),
    "retention": ("Keeping",),
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
