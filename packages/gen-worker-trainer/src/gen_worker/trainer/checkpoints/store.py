"""The checkpoints of one job's directory: the newest that is whole, and no more than are wanted."""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.models.store.durable import fsync_directory, remove_tree
from gen_worker.trainer.checkpoints.claim import Claim
from gen_worker.trainer.checkpoints.done import forget_done, note_done
from gen_worker.trainer.checkpoints.draft import BUILDING, MANIFEST, OLD, Draft
from gen_worker.trainer.checkpoints.files import size_of, verify_files, write_file
from gen_worker.trainer.checkpoints.retention import Keeping, superfluous
from gen_worker.trainer.checkpoints.values import FINAL, Checkpoint, name_of
from gen_worker.trainer.errors import CheckpointError, CheckpointSpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from gen_worker.trainer.checkpoints.values import StoredFile

__all__ = ["CheckpointStore", "Found"]

_NAME = re.compile(r"(?:step-(\d{8,})|final)\.json")
_HIDDEN = re.compile(r"\.(step-\d{8,}|final)\..+")
_ROOM = 1.1
"""Of what the last checkpoint took; they grow a little."""

_log = logging.getLogger("gen_worker.trainer")


class Found(NamedTuple):
    """A checkpoint and where it is."""

    checkpoint: Checkpoint
    json_path: str
    directory: str
    """Of its files; the directory of the JSON file when it has none."""
    held: Any = None
    """What the look at its files has returned."""


class CheckpointStore:
    """The checkpoints of one directory, which this process has for itself.

    One checkpoint is made at a time; a step's may be replaced, and is whole at any moment.
    """

    def __init__(
        self,
        root: str,
        keeping: Keeping | None = None,
        *,
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        """Take a directory over; what another process has left half-done there is mended.

        Args:
            root: Made where there is none.
            keeping: How many stay.
            warn: Told of checkpoints that are passed over.

        Raises:
            CheckpointsInUseError: Another process has it.
            OSError: It cannot be made or read.
        """
        self.root = os.path.abspath(root)
        self._keeping = keeping or Keeping()
        self._warn = warn
        self._last_bytes = 0
        os.makedirs(self.root, exist_ok=True)
        self._claim = Claim(self.root)
        try:
            self._mend()
        except BaseException:
            self._claim.release()
            raise

    def __repr__(self) -> str:
        return f"<CheckpointStore {self.root!r}>"

    def close(self) -> None:
        """Let others have the directory."""
        self._claim.release()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------

    @contextmanager
    def building(
        self, step: int, *, is_final: bool = False, need_bytes: int = 0
    ) -> Iterator[Draft]:
        """Give a draft for a step; unless it is committed, nothing of it stays.

        Args:
            step: Completed steps.
            is_final: Whether it is the run's last.
            need_bytes: What it will take at least, if that is known; what the last one took is
                looked for in any case.

        Raises:
            CheckpointSpaceError: There is no room for it.
        """
        self._require_room(max(need_bytes, self._last_bytes))
        draft = Draft(self.root, step, is_final=is_final)
        try:
            forget_done(self.root, draft.name)
            yield draft
            directory = os.path.join(self.root, draft.name)
            self._last_bytes = size_of(directory) if os.path.isdir(directory) else 0
        finally:
            draft.discard()

    def _require_room(self, need_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.root).free
        if free_bytes < need_bytes * _ROOM:
            raise CheckpointSpaceError(
                f"the next checkpoint is expected to take {need_bytes} bytes, and the disk of "
                f"{self.root!r} has {free_bytes}: free space there, or keep fewer checkpoints",
                path=self.root,
            )

    def note_done(self, step: int, done: Collection[str]) -> None:
        """Note which duties of a periodic checkpoint's step are done by now; see `done_since`."""
        note_done(self.root, name_of(step), done)

    def retire(self) -> list[str]:
        """Remove what need not stay, once the newest was looked at; return their names.

        Nothing is removed while the newest is damaged.
        """
        every = [found for found in self._listed() if not found.checkpoint.final]
        doomed = superfluous([found.checkpoint for found in every], self._keeping)
        if not doomed:
            return []
        newest = max(every, key=lambda found: found.checkpoint.step)
        try:
            verify_files(newest.directory, newest.checkpoint.files)
        except CheckpointError as error:
            self._warn(f"no checkpoint is removed while the newest is damaged: {error}")
            return []
        for checkpoint in doomed:
            self._remove(checkpoint.name)
        return [checkpoint.name for checkpoint in doomed]

    def _remove(self, name: str) -> None:
        path = os.path.join(self.root, name)
        with suppress(FileNotFoundError):
            os.unlink(path + ".json")
        forget_done(self.root, name)
        fsync_directory(self.root)
        remove_tree(path)

    # -- reading -----------------------------------------------------------------------------------

    def final(self) -> Found | None:
        """Return the final checkpoint if there is one that is whole."""
        return self._whole(os.path.join(self.root, FINAL + ".json"))

    def newest(
        self,
        verify: Callable[[str, Mapping[str, StoredFile]], object] = verify_files,
        among: Callable[[Checkpoint], bool] = lambda _: True,
    ) -> Found | None:
        """Return the checkpoint of the most steps that is whole; damaged ones are passed over.

        Of the final one and a periodic one of the same step the final one comes first.

        Args:
            verify: Looks at every byte of the files below a directory, and raises CheckpointError;
                what it returns is held along with what is found.
            among: Tells which are looked at.
        """
        listed = [found for found in self._listed() if among(found.checkpoint)]
        listed.sort(key=lambda one: (one.checkpoint.step, one.checkpoint.final), reverse=True)
        for found in listed:
            whole = self._whole(found.json_path, verify)
            if whole is not None:
                return whole
        return None

    def checkpoints(self) -> list[Checkpoint]:
        """Return all that can be read, by step; their files are not looked at."""
        listed = [found.checkpoint for found in self._listed()]
        return sorted(listed, key=lambda one: (one.step, one.final))

    def _listed(self) -> list[Found]:
        paths = (os.path.join(self.root, name) for name in sorted(os.listdir(self.root)))
        return [
            found
            for path in paths
            if _NAME.fullmatch(os.path.basename(path)) and (found := self._read(path)) is not None
        ]

    def _whole(
        self,
        path: str,
        verify: Callable[[str, Mapping[str, StoredFile]], object] = verify_files,
    ) -> Found | None:
        found = self._read(path)
        if found is None:
            return None
        try:
            held = verify(found.directory, found.checkpoint.files)
        except CheckpointError as error:
            self._warn(f"checkpoint {path!r} is passed over: {error}")
            return None
        return found._replace(held=held)

    def _read(self, path: str) -> Found | None:
        try:
            return read_checkpoint(path)
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            self._warn(f"checkpoint {path!r} is passed over: {error}")
            return None

    # -- what a process that was killed has left ---------------------------------------------------

    def _mend(self) -> None:
        for name in os.listdir(self.root):
            path = os.path.join(self.root, name)
            hidden = _HIDDEN.fullmatch(name)
            if hidden is None:
                continue
            target = os.path.join(self.root, hidden[1])
            if name.endswith(OLD) and _is_current(path, target):
                os.rename(path, target)  # its successor had not got that far
            elif name.endswith((BUILDING, OLD)):
                remove_tree(path)
            elif name.endswith(".tmp"):
                os.unlink(path)
        for name in os.listdir(self.root):
            manifest = os.path.join(self.root, name, MANIFEST)
            if _NAME.fullmatch(name + ".json") and os.path.isfile(manifest):
                self._repeat(manifest, os.path.join(self.root, name + ".json"))

    def _repeat(self, manifest: str, path: str) -> None:
        """Write a checkpoint's JSON that its directory has and the file beside it has not."""
        with open(manifest, "rb") as file:
            body = file.read()
        with suppress(FileNotFoundError), open(path, "rb") as file:
            if file.read() == body:
                return
        write_file(path, body)


def read_checkpoint(path: str) -> Found:
    """Read a checkpoint's JSON; its files are not looked at.

    Files of older writers are read as well: without `step`, it is the number in the name.

    Raises:
        CheckpointError: It is none.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        body = file.read()
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
        if not isinstance(fields.get("state"), dict):
            raise CheckpointError("it has no `state`", path=path)
        fields = {"step": _step_of(path), "request_id": "", **fields}
        checkpoint = msgspec.convert(fields, Checkpoint, strict=False)
        if checkpoint.step < 0 or any(not _is_inside(name) for name in checkpoint.files):
            raise CheckpointError("its step or a file's name is impossible", path=path)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"it is no checkpoint: {error}", path=path) from error
    directory = path.removesuffix(".json")
    if not os.path.isdir(directory):
        if checkpoint.files:
            raise CheckpointError("the directory of its files is missing", path=directory)
        directory = os.path.dirname(path)
    return Found(checkpoint, path, directory)


def _is_current(old: str, target: str) -> bool:
    """Tell whether what was moved away is still what the file beside its place speaks of."""
    if os.path.lexists(target):
        return False
    bodies: list[bytes] = []
    for path in (os.path.join(old, MANIFEST), target + ".json"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            bodies.append(file.read())
    return len(bodies) < 2 or bodies[0] == bodies[1]


def _step_of(path: str) -> int:
    number = re.search(r"(\d+)\.json$", path)
    return int(number[1]) if number else 0


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and not any(part in ("", ".", "..") or "\\" in part for part in parts)
