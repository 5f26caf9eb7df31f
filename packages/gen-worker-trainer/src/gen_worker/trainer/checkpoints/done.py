"""What a run has done since a checkpoint was kept, and need not do once more from there.

It is said beside the checkpoint, in `<name>.done`: the checkpoint itself never changes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.trainer.checkpoints.files import write_file

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["DONE", "done_since", "forget_done", "note_done"]

DONE = ".done"
"""Ends the names of these files."""


def note_done(root: str, name: str, done: Collection[str]) -> None:
    """Note what is done; it takes the place of what was noted before.

    Args:
        root: Directory of the checkpoints.
        name: Of the checkpoint.
        done: Names of duties.

    Raises:
        OSError: The disk is full, or fails.
    """
    write_file(os.path.join(root, name + DONE), msgspec.json.encode(sorted(done)))


def done_since(json_path: str) -> frozenset[str]:
    """Return what is noted of the checkpoint of a JSON file; what cannot be read is not done."""
    try:
        with open(json_path.removesuffix(".json") + DONE, "rb") as file:
            return msgspec.json.decode(file.read(), type=frozenset[str])
    except (OSError, msgspec.MsgspecError):
        return frozenset()


def forget_done(root: str, name: str) -> None:
    """Begin anew: the checkpoint of this name is removed, or another one takes its place."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(root, name + DONE))
