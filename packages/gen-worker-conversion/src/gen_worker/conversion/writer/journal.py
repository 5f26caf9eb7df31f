"""What of an output is finished, kept beside it, so that a killed conversion goes on from there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.conversion.writer.output_file import (
    OutputFile,
    WrittenFile,
    make_directories,
    remove_parts,
    write_failure,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FinishedFile", "Journal", "is_as_recorded"]

T = TypeVar("T")


class FinishedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a journal."""

    name: str
    size_bytes: int
    mtime_ns: int
    blake3: str
    facts: msgspec.Raw = msgspec.Raw(b"null")
    """What else its writer wants to know about it."""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    plan: str


class Journal:
    """Finished files of one plan; a journal of another plan counts for nothing and is replaced.

    One process at a time may use it. A line is added once its file is durable under its name.
    """

    def __init__(self, path: str | os.PathLike[str], recipe: str = "") -> None:
        """Name it; nothing is read or written yet.

        Args:
            path: Of the journal's own file.
            recipe: Names everything that decides about the bytes and that is not in the plan of
                the files, such as method, options and versions of what computes.
        """
        self.path = os.fspath(path)
        self.recipe = recipe
        self._finished: dict[str, FinishedFile] = {}

    def begin(self, plan: str) -> Mapping[str, FinishedFile]:
        """Return what is finished of a plan, by name of the file, and write on from there.

        Args:
            plan: A fingerprint of the files to write and of what they are made of.
        """
        wanted = _Head(plan=f"{self.recipe}\n{plan}")
        lines = self._lines()
        self._finished = {}
        if lines and _decoded(lines[0], _Head) == wanted:
            entries = (_decoded(line, FinishedFile) for line in lines[1:])
            self._finished = {entry.name: entry for entry in entries if entry is not None}
        self._rewrite(wanted)
        return dict(self._finished)

    def _lines(self) -> list[bytes]:
        try:
            with open(self.path, "rb") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []

    def _rewrite(self, head: _Head) -> None:
        """Write head and finished files anew: the last line may be half of one."""
        directory, name = os.path.split(os.path.abspath(self.path))
        make_directories(directory)
        remove_parts(directory, name)
        with OutputFile(self.path) as file:
            for item in (head, *self._finished.values()):
                file.write(msgspec.json.encode(item) + b"\n")
            file.finish()

    def add(self, written: WrittenFile, facts: object = None) -> None:
        """Record a file that is finished."""
        stat = os.stat(written.path)
        entry = FinishedFile(
            name=os.path.basename(written.path),
            size_bytes=written.size_bytes,
            mtime_ns=stat.st_mtime_ns,
            blake3=written.blake3,
            facts=msgspec.Raw(msgspec.json.encode(facts)),
        )
        try:
            with open(self.path, "ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failure(self.path, error) from error

    def remove(self) -> None:
        """Forget everything, once the whole output is finished."""
        if os.path.exists(self.path):
            os.unlink(self.path)


def _decoded(line: bytes, kind: type[T]) -> T | None:
    """Return a line as what it should be; None for half of one."""
    try:
        return msgspec.json.decode(line, type=kind)
    except ValueError:
        return None


def is_as_recorded(entry: FinishedFile, path: str) -> bool:
    """Tell whether a finished file is still the one that was recorded."""
    try:
        facts = os.stat(path)
    except OSError:
        return False
    return (facts.st_size, facts.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns)
