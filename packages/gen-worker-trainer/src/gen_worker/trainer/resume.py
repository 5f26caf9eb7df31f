"""Where a run goes on: at the checkpoint it is told, at the newest whole one, or at its end."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.checkpoints.done import done_since
from gen_worker.trainer.checkpoints.store import read_checkpoint
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.loop.duties import OWED
from gen_worker.trainer.state.held import HeldFiles, verify_and_hold

if TYPE_CHECKING:
    from gen_worker.trainer.checkpoints import CheckpointStore
    from gen_worker.trainer.checkpoints.store import Found
    from gen_worker.trainer.job_file import JobFile

__all__ = ["ResumePoint", "finished_at", "resume_point"]

_log = logging.getLogger("gen_worker.trainer")


class ResumePoint(NamedTuple):
    """What a run goes on from."""

    step: int
    """Completed steps."""
    state: dict[str, Any]
    """For `load_state_dict`."""
    directory: str
    """For `load_checkpoint`."""
    runtime: dict[str, Any]
    """What the runtime itself has kept."""
    held: HeldFiles | None = None
    """What of the directory is read already."""


def finished_at(job: JobFile, store: CheckpointStore, explicit_path: str = "") -> str | None:
    """Return the final checkpoint of a run that needs no more steps; None for any other."""
    if explicit_path or not job.resume_from_latest:
        return None
    if not any(one.final and one.step >= job.max_steps for one in store.checkpoints()):
        return None  # whose bytes nobody has to look at
    found = store.final()
    return None if found is None else found.json_path


def resume_point(
    job: JobFile, store: CheckpointStore, explicit_path: str = ""
) -> ResumePoint | None:
    """Return where a run goes on; None where it begins.

    Args:
        job: Says whether it may go on at the newest checkpoint.
        store: Of this job's checkpoints.
        explicit_path: A checkpoint's JSON; it comes before any in the store.

    Raises:
        CheckpointError: There is no whole checkpoint at the explicit path, and nothing to go on
            with instead.
    """
    missing: CheckpointError | None = None
    if explicit_path:
        try:
            return _point(job, _whole(explicit_path))
        except CheckpointError as error:
            missing = error
    found = store.newest(verify_and_hold) if job.resume_from_latest else None
    if missing is not None:
        if found is None:
            raise missing
        _log.warning("the newest checkpoint is used instead: %s", missing)
    return None if found is None else _point(job, found)


def _whole(path: str) -> Found:
    if os.path.isdir(path):
        path = path.rstrip("/" + os.sep) + ".json"
    try:
        found = read_checkpoint(path)
    except OSError as error:
        raise CheckpointError(
            f"there is no checkpoint {path!r} to go on with: {error.strerror}", path=path
        ) from error
    return found._replace(held=verify_and_hold(found.directory, found.checkpoint.files))


def _point(job: JobFile, found: Found) -> ResumePoint:
    checkpoint = found.checkpoint
    runtime = dict(checkpoint.runtime)
    owed = frozenset(runtime.pop(OWED, ())) - done_since(found.json_path)
    if owed and checkpoint.request_id == job.request_id:  # what another run has not done stays so
        runtime[OWED] = sorted(owed)
    return ResumePoint(checkpoint.step, checkpoint.state, found.directory, runtime, found.held)
