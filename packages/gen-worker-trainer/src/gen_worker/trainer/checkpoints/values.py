"""What is known of one checkpoint, as its JSON file says it."""

from __future__ import annotations

import os
from typing import Any

import msgspec

__all__ = ["FINAL", "FORMAT", "Checkpoint", "StoredFile", "name_of"]

FORMAT = "gen_worker.checkpoint.v1"
FINAL = "final"


class StoredFile(msgspec.Struct, frozen=True):
    """One file of a checkpoint's directory."""

    size_bytes: int
    blake3: str
    """Hexadecimal."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One checkpoint: the body of `<name>.json`, beside the directory `<name>` if it has files.

    Written last, so that whoever finds it finds all of `files`, too.
    """

    step: int
    """Completed steps."""
    request_id: str
    state: dict[str, Any]
    """What `state_dict` of the trainer returned."""
    final: bool = False
    trainer_checkpoint: dict[str, Any] | None = None
    """What its `save_checkpoint` returned."""
    metrics: dict[str, float] = {}
    """Of the step, as far as they are finite."""
    runtime: dict[str, Any] = {}
    """What the runtime needs to go on exactly here; its tensors are in `files`."""
    files: dict[str, StoredFile] = {}
    """By path in the directory, with `/`."""
    format: str = ""
    sdk_version: str = ""
    created_at: float = 0.0
    """Unix time."""

    @property
    def name(self) -> str:
        return name_of(self.step, is_final=self.final)

    @property
    def primary_path(self) -> str:
        """Where the trainer says that its main file is; empty when it does not."""
        path = (self.trainer_checkpoint or {}).get("primary_path")
        return os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""


def name_of(step: int, *, is_final: bool = False) -> str:
    """Return what a checkpoint is called: `step-00000050`, or `final`."""
    return FINAL if is_final else f"step-{step:08d}"
