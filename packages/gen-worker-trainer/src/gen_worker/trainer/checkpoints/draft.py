"""A checkpoint that is being made: a private directory, until it is whole."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.store.durable import fsync_directory, remove_tree
from gen_worker.trainer.checkpoints.files import made_durable, write_file
from gen_worker.trainer.checkpoints.values import FORMAT, Checkpoint, name_of
from gen_worker.trainer.errors import CheckpointError
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BUILDING", "MANIFEST", "OLD", "Draft"]

BUILDING = ".building"
"""Ends the names of directories that are not whole."""
OLD = ".old"
"""Ends the names of directories that another one takes the place of."""
MANIFEST = "checkpoint.json"
"""The checkpoint's JSON once more, in its directory: it can be found without the other."""

_encode = msgspec.json.Encoder(order="sorted").encode


class Draft:
    """One checkpoint on its way. From whichever thread, one at a time."""

    def __init__(self, root: str, step: int, *, is_final: bool) -> None:
        """Make its directory.

        Args:
            root: Of all checkpoints.
            step: Completed steps.
            is_final: Whether it is the run's last.
        """
        self.step = step
        self.is_final = is_final
        self.name = name_of(step, is_final=is_final)
        self._root = root
        unique = f".{self.name}.{os.getpid()}-{os.urandom(4).hex()}"
        self.directory = os.path.join(root, unique + BUILDING)
        """Where its files are to be written."""
        self._old = os.path.join(root, unique + OLD)
        os.makedirs(self.directory)

    def discard(self) -> None:
        """Leave nothing of it."""
        remove_tree(self.directory)

    def commit(
        self,
        request_id: str,
        state: dict[str, Any],
        *,
        trainer_checkpoint: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Make it visible under its name, all at once; one of the same name gives way to it.

        Args:
            request_id: Of the job.
            state: JSON values, from `state_dict` of the trainer.
            trainer_checkpoint: JSON values, from its `save_checkpoint`. Paths into the draft's
                directory become those of the directory's final place.
            metrics: Finite numbers of this step.
            runtime: JSON values, for `Checkpoint.runtime`.

        Raises:
            CheckpointError: A value cannot be kept as JSON, or there is a link among the files.
            OSError: The disk is full, or fails.
        """
        target = os.path.join(self._root, self.name)
        extra = None
        if trainer_checkpoint is not None:
            extra = {key: self._moved(value, target) for key, value in trainer_checkpoint.items()}
        files = made_durable(self.directory)
        checkpoint = Checkpoint(
            step=self.step,
            request_id=request_id,
            state=state,
            final=self.is_final,
            trainer_checkpoint=extra,
            metrics=dict(metrics or {}),
            runtime=dict(runtime or {}),
            files=files,
            format=FORMAT,
            sdk_version=sdk_version(),
            created_at=time.time(),
        )
        body = self._encoded(checkpoint)
        if files:
            write_file(os.path.join(self.directory, MANIFEST), body)
            self._swap(target)
        else:
            self._retire(target)
            remove_tree(self.directory)
        write_file(target + ".json", body)
        remove_tree(self._old)
        return checkpoint

    def _encoded(self, checkpoint: Checkpoint) -> bytes:
        try:
            return _encode(msgspec.to_builtins(checkpoint, str_keys=True))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"the state of step {self.step} cannot be kept as JSON ({error}): "
                "tensors belong into files that `save_checkpoint` writes",
                path=os.path.join(self._root, self.name),
            ) from error

    def _swap(self, target: str) -> None:
        """Move the directory to its place; whatever was there stays whole until that is done."""
        self._retire(target)
        os.rename(self.directory, target)
        fsync_directory(self._root)

    def _retire(self, target: str) -> None:
        if os.path.lexists(target):
            os.rename(target, self._old)

    def _moved(self, value: Any, target: str) -> Any:
        """Return a value that names a file of the draft as it will be named."""
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str) and os.path.isabs(value):
            inside = os.path.relpath(value, self.directory)
            if inside != os.pardir and not inside.startswith(os.pardir + os.sep):
                return os.path.normpath(os.path.join(target, inside))
        if isinstance(value, dict):
            return {key: self._moved(one, target) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._moved(one, target) for one in value]
        return value
