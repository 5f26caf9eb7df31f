"""How the scheduler's ledger fails: in use, damaged, too new, not writable, a key used twice."""

from __future__ import annotations

from gen_worker.errors import DuplicateRequestError, FatalError, ResourceError

__all__ = [
    "DamagedLedgerError",
    "KeyConflictError",
    "LedgerInUseError",
    "LedgerWriteError",
    "UnknownLedgerError",
]


class LedgerInUseError(FatalError):
    """Another process has this ledger open; a ledger has one owner."""

    def __init__(self, message: str, *, path: str, pid: int = 0) -> None:
        """Keep who has it.

        Args:
            message: What to do.
            path: The ledger's folder.
            pid: The process that has it; 0 when it has not said.
        """
        super().__init__(message)
        self.path = path
        self.pid = pid


class DamagedLedgerError(FatalError):
    """The database is not what was written; nothing was changed."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class UnknownLedgerError(FatalError):
    """The database was written by a newer version, or this Python's SQLite is too old for it."""

    def __init__(self, message: str, *, path: str, version: int = 0) -> None:
        super().__init__(message)
        self.path = path
        self.version = version


class LedgerWriteError(ResourceError):
    """What was to be written is not written, and nothing of it is; the disk is full, or fails.

    The ledger goes on: once there is room the same can be asked again.
    """

    retryable = True
    retry_after_s = 5.0

    def __init__(self, message: str, *, path: str, is_full: bool = False) -> None:
        super().__init__(message)
        self.path = path
        self.is_full = is_full


class KeyConflictError(DuplicateRequestError):
    """An owner's key belongs to a request with another body."""

    code = "idempotency_conflict"

    def __init__(self, message: str, *, request_id: str) -> None:
        """Keep the request that has the key.

        Args:
            message: What to do.
            request_id: Of the request that was submitted with the key first.
        """
        super().__init__(message)
        self.request_id = request_id
