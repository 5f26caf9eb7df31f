"""Checkpoints of an earlier run in the directory of this one: kept, and out of its way."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from gen_worker.models.store.durable import fsync_directory
from gen_worker.trainer.checkpoints.done import DONE
from gen_worker.trainer.distributed.agreement import first_does
from gen_worker.trainer.loop.parts import Part

if TYPE_CHECKING:
    from gen_worker.trainer.checkpoints import CheckpointStore
    from gen_worker.trainer.loop.running import Run
    from gen_worker.trainer.resume import ResumePoint
    from gen_worker.trainer.writer import LocalArtifactWriter

__all__ = ["EarlierRun", "set_aside"]

_FOLDER = "earlier"
_log = logging.getLogger("gen_worker.trainer")


class EarlierRun(Part):
    """Moves them once this run is about to do its first step; one that fails before leaves them."""

    def __init__(self, writer: LocalArtifactWriter, point: ResumePoint | None) -> None:
        self._writer = writer
        self._point = point

    def begin(self, run: Run) -> None:
        first_does(run.world, lambda: set_aside(self._writer.store, self._point))


def set_aside(store: CheckpointStore, point: ResumePoint | None) -> str | None:
    """Move the checkpoints that a run does not go on from; return where, None without any.

    They would be taken for its own: retention keeps those of the most steps, and would remove what
    this run has just made; the next resume would go on with them.

    Args:
        store: Of the run.
        point: Where it goes on; None where it begins anew.
    """
    behind = point.step if point is not None and _is_in(store.root, point.directory) else -1
    names = [one.name for one in store.checkpoints() if one.step > behind]
    if not names:
        return None
    numbers = (number for number in range(1, len(os.listdir(store.root)) + 2))
    folder = next(
        path
        for number in numbers
        if not os.path.lexists(path := os.path.join(store.root, f"{_FOLDER}-{number}"))
    )
    os.mkdir(folder)
    for name in names:
        # The directory first: of a checkpoint that is moved halfway none is whole.
        for part in (name, f"{name}.json", name + DONE):
            if os.path.lexists(path := os.path.join(store.root, part)):
                os.rename(path, os.path.join(folder, part))
    fsync_directory(folder)
    fsync_directory(store.root)
    _log.warning(
        "this run does not go on with %s, and they are now in %r: remove them, or set "
        "resume_checkpoint_path to one of them",
        ", ".join(names),
        folder,
    )
    return folder


def _is_in(root: str, path: str) -> bool:
    return (os.path.abspath(path) + os.sep).startswith(root + os.sep)
