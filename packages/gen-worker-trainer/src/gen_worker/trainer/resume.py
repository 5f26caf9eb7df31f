"""Where a run goes on: at the checkpoint it is told, at the newest whole one, or at its end."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.checkpoints.done import done_since
from gen_worker.trainer.checkpoints.store import read_checkpoint
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.loop.duties import OWED
from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.loop.saving import PARTS
from gen_worker.trainer.state.held import HeldFiles, verify_and_hold

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.trainer.checkpoints import Checkpoint, CheckpointStore
    from gen_worker.trainer.checkpoints.store import Found
    from gen_worker.trainer.job_file import JobFile

__all__ = ["Origin", "ResumePoint", "finished_at", "resume_point"]

_ORIGIN = "origin"
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


class Origin(Part):
    """Has checkpoints say at which explicit checkpoint their run began, so that it does so once."""

    def __init__(self, job: JobFile) -> None:
        self._origin = _origin_of(job)
        self.name = _ORIGIN if self._origin else ""

    def kept(self) -> Any:
        return self._origin


def finished_at(job: JobFile, store: CheckpointStore) -> str | None:
    """Return the final checkpoint of a run that needs no more steps; None for any other."""
    if not job.resume_from_latest:
        return None
    if not any(
        one.final and one.step >= job.max_steps and _is_own(job, one) for one in store.checkpoints()
    ):
        return None  # whose bytes nobody has to look at
    found = store.final()
    return None if found is None else found.json_path


def resume_point(
    job: JobFile, store: CheckpointStore, find_explicit: Callable[[], str | None] | None = None
) -> ResumePoint | None:
    """Return where a run goes on; None where it begins.

    An explicit checkpoint is where the first attempt begins. A later one, of a job that names the
    same, goes on at the newest whole checkpoint that has come of it; the explicit one is not even
    looked for then.

    Args:
        job: Says whether it may go on at the newest checkpoint, and whether it names one.
        store: Of this job's checkpoints.
        find_explicit: Returns the JSON of the one that is named; by default it is a path.

    Raises:
        CheckpointError: There is no whole checkpoint at the explicit path, and nothing to go on
            with instead.
        Exception: What `find_explicit` has raised.
    """
    missing: CheckpointError | None = None
    if _origin_of(job):
        if (own := _newest_own(job, store)) is not None:
            return _point(job, own)
        path = job.resume_checkpoint_path if find_explicit is None else find_explicit()
        try:
            return _point(job, _whole(path or ""))
        except CheckpointError as error:
            missing = error
    found = store.newest(verify_and_hold) if job.resume_from_latest else None
    if missing is not None:
        if found is None:
            raise missing
        _log.warning("the newest checkpoint is used instead: %s", missing)
    return None if found is None else _point(job, found)


def _newest_own(job: JobFile, store: CheckpointStore) -> Found | None:
    """Return where a job goes on that has begun at its explicit checkpoint before."""
    if not job.resume_from_latest:
        return None
    found = store.newest(verify_and_hold, lambda one: _is_own(job, one))
    if found is not None:
        _log.info(
            "going on at %r: the job has begun before, at the checkpoint it names", found.json_path
        )
    return found


def _is_own(job: JobFile, checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint has come of what the job names, if it names one."""
    origin = _origin_of(job)
    return not origin or checkpoint.runtime.get(PARTS, {}).get(_ORIGIN) == origin


def _origin_of(job: JobFile) -> str:
    """Return what tells the explicit checkpoint of a job from others; empty without one.

    It is made of the words of the job, as a tag may mean another checkpoint by now, and says
    nothing, as URLs may hold secrets.
    """
    text = job.inputs.resume_checkpoint_ref or job.resume_checkpoint_path
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


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
