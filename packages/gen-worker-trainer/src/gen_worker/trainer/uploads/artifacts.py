"""What belongs to a checkpoint, and how its files stay while they wait to be sent."""

from __future__ import annotations

import os
import re
import shutil
from typing import NamedTuple

from gen_worker.models.store.durable import remove_tree
from gen_worker.trainer.checkpoints.draft import MANIFEST
from gen_worker.trainer.checkpoints.values import FINAL, name_of

__all__ = ["CheckpointFiles", "checkpoint_files", "staged"]

_NAME = re.compile(rf"step-\d{{8,}}|{FINAL}")


class CheckpointFiles(NamedTuple):
    """One checkpoint that is to be sent."""

    local_path: str
    """Of its main file, as it was reported."""
    size_bytes: int
    """Of the main file; 0 if there is none."""
    step: int
    slot: str
    """`step-00000050` or `final`."""
    main: str
    """Key of the main file in `paths`."""
    paths: dict[str, str]
    """Where each file is, by what it is called in the checkpoint; empty if there are none."""

    @property
    def is_final(self) -> bool:
        return self.slot == FINAL

    def upload_name(self, name: str) -> str:
        """Return what a file is called on the hub: by slot and name."""
        own = os.path.basename(self.local_path) if name == self.main else name
        return f"{self.slot}-{own}"


def checkpoint_files(local_path: str, step: int, *, is_final: bool = False) -> CheckpointFiles:
    """Return every file of the checkpoint whose main file is at a path.

    Args:
        local_path: Its JSON, or what its trainer calls the main file.
        step: Completed steps.
        is_final: Whether it is known to be the run's last; its name may say so, too.
    """
    path = os.path.abspath(local_path)
    directory = _directory_of(path)
    stem = os.path.basename(directory or path.removesuffix(".json"))
    slot = name_of(step, is_final=is_final or stem == FINAL)
    paths: dict[str, str] = {}
    if directory is not None:
        for folder, folders, names in os.walk(directory):
            folders.sort()
            for name in sorted(names):
                found = os.path.join(folder, name)
                paths[os.path.relpath(found, directory).replace(os.sep, "/")] = found
    main = os.path.basename(path)
    if directory is not None and path.startswith(directory + os.sep):
        main = os.path.relpath(path, directory).replace(os.sep, "/")
    elif path.endswith(".json") and os.path.isfile(path):
        main = MANIFEST  # so that whoever has the files can go on from them
        paths[main] = path
    elif os.path.isfile(path):
        paths[main] = path
    is_there = main in paths
    size_bytes = os.stat(path).st_size if is_there else 0
    return CheckpointFiles(local_path, size_bytes, step, slot, main, paths if is_there else {})


def staged(files: CheckpointFiles, root: str) -> CheckpointFiles:
    """Return the same files where nobody removes them; `root` is this one's alone.

    They cost no room of the disk, except where it knows no links.
    """
    remove_tree(root)
    paths: dict[str, str] = {}
    for name, path in files.paths.items():
        kept = os.path.join(root, *name.split("/"))
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        try:
            os.link(path, kept)
        except OSError:
            shutil.copyfile(path, kept)
        paths[name] = kept
    return files._replace(paths=paths)


def _directory_of(path: str) -> str | None:
    """Return the directory of a checkpoint's files, if it has one."""
    if path.endswith(".json") and os.path.isdir(path.removesuffix(".json")):
        return path.removesuffix(".json")
    directory = os.path.dirname(path)
    while os.path.dirname(directory) != directory:
        is_named = _NAME.fullmatch(os.path.basename(directory)) is not None
        if is_named and os.path.isfile(directory + ".json"):
            return directory
        directory = os.path.dirname(directory)
    return None
