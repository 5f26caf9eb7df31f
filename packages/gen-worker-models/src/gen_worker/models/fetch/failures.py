"""What a failed request means for its file: another location, a wait, or the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.fetch.download import SegmentVoidError
from gen_worker.models.fetch.routes import Routes
from gen_worker.models.fetch.transfer import RangesIgnoredError
from gen_worker.models.net.errors import HttpStatusError

if TYPE_CHECKING:
    import threading

    from gen_worker.models.fetch.tasks import Task
    from gen_worker.models.fetch.values import Location

__all__ = ["refresh", "settle_failure"]

_TERMINAL_STATUSES = frozenset({401, 403, 404, 410})
_RANGE_NOT_SATISFIABLE = 416
_MAX_REFRESHES = 5
"""In a row, with nothing fetched in between."""


def settle_failure(
    task: Task, location: Location, error: Exception, lock: threading.Condition, now: float
) -> None:
    """Change the task so that its next request has a better chance.

    Args:
        task: Whose request failed.
        location: Where.
        error: How.
        lock: Guards the task.
        now: By the clock of `task.not_before`.

    Raises:
        Exception: `error`, when there is nothing left to try.
    """
    status = error.status_code if isinstance(error, HttpStatusError) else 0
    if isinstance(error, SegmentVoidError):
        return  # what made it void is being dealt with
    if isinstance(error, RangesIgnoredError):
        with lock:
            task.routes.has_no_ranges(location)
    elif status in _TERMINAL_STATUSES:
        with lock:
            task.routes.give_up(location)
        refresh(task, status, error, lock)
    elif status == _RANGE_NOT_SATISFIABLE and not task.restarts:
        with lock:
            task.restarts += 1
            if task.download is not None:
                task.download.restart()
    elif isinstance(error, ArtifactTransferError) and error.retryable:
        _wait(task, location, error, lock, now)
    elif isinstance(error, ArtifactTransferError):
        with lock:
            task.routes.give_up(location)
            if task.routes.current is None and not task.is_refreshing:
                raise error
    else:
        raise error


def _wait(
    task: Task,
    location: Location,
    error: ArtifactTransferError,
    lock: threading.Condition,
    now: float,
) -> None:
    """Ask the next location at once; wait when all of them failed."""
    with lock:
        if task.not_before > now:  # another connection's failure is being waited for
            return
        if task.routes.pass_over(location):
            return
        wait_s = task.backoff.next_wait_s(getattr(error, "retry_after_s", None))
        if wait_s is None:
            raise error
        task.not_before = now + wait_s


def refresh(task: Task, status: int, error: Exception, lock: threading.Condition) -> None:
    """Ask the caller for new locations when none is left.

    Raises:
        Exception: `error`, when there are none; or what the caller's function raises.
    """
    with lock:
        if task.is_refreshing or task.routes.current is not None:
            return
        if task.file.refresh is None or task.refreshes >= _MAX_REFRESHES:
            raise error
        task.is_refreshing = True
        task.refreshes += 1
    try:
        locations = task.file.refresh(status)
    finally:
        with lock:
            task.is_refreshing = False
    if not locations:
        raise error
    with lock:
        task.routes = Routes(locations)
