"""Where outputs are until all of them are complete: beside their place, with their journals."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.writer import Journal
from gen_worker.conversion.writer.output_file import write_failure
from gen_worker.models.store.durable import fsync_directory

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Staging", "finished_bytes"]

_OUTPUT, _LOCK, _RECIPE = "output", "lock", "recipe"


def _beside(out: str) -> str:
    parent, name = os.path.split(out)
    return os.path.join(parent, f".{name}.converting")


def finished_bytes(out: str) -> int:
    """Return what an interrupted run has already put on the disk."""
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(os.path.join(_beside(out), _OUTPUT))
        for name in names
    )


class Staging:
    """The place of one conversion's outputs, until `publish` puts them where they belong.

    One process at a time has it. After a failure nothing is left of it; after an interruption, or
    a kill, it stays, and the same conversion goes on with it.
    """

    def __init__(self, out: str, recipe: str, *, may_resume: bool) -> None:
        """Name it; nothing is made yet.

        Args:
            out: Where the outputs go: a directory that is absent or empty.
            recipe: Names everything that decides about the outputs.
            may_resume: Whether what an earlier run has finished counts.
        """
        self.out = out
        self.root = _beside(out)
        self.output = os.path.join(self.root, _OUTPUT)
        self._recipe = recipe
        self._may_resume = may_resume
        self._lock = -1

    def __enter__(self) -> Staging:
        try:
            os.makedirs(self.root, exist_ok=True)
            self._claim()
            if not self._may_resume or self._known() != self._recipe:
                self._clear()
            os.makedirs(self.output, exist_ok=True)
        except OSError as error:
            self._release()
            raise write_failure(self.root, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        if kind is not None and not is_interrupted and not _is_canceled(error):
            shutil.rmtree(self.root, ignore_errors=True)
        self._release()

    def journal(self, name: str) -> Journal:
        """Return the journal of one component of one output."""
        return Journal(os.path.join(self.root, f"{name}.journal"), self._recipe)

    def publish(self) -> None:
        """Put the outputs in their place, all at once."""
        try:
            os.replace(self.output, self.out)
        except OSError as error:
            raise write_failure(self.out, error) from error
        fsync_directory(os.path.dirname(self.out))
        shutil.rmtree(self.root, ignore_errors=True)

    def _known(self) -> str:
        with suppress(OSError), open(os.path.join(self.root, _RECIPE), encoding="utf-8") as file:
            return file.read()
        return ""

    def _clear(self) -> None:
        for entry in os.scandir(self.root):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            elif entry.name != _LOCK:
                os.unlink(entry.path)
        with open(os.path.join(self.root, _RECIPE), "w", encoding="utf-8") as file:
            file.write(self._recipe)

    def _claim(self) -> None:
        self._lock = os.open(os.path.join(self.root, _LOCK), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise ConversionInputError(
                f"another process converts to {self.out!r}: wait for it, or choose another place",
                file=self.out,
                step="write",
            ) from None
        except OSError:  # a file system without locks
            return

    def _release(self) -> None:
        if self._lock >= 0:
            with suppress(OSError):
                os.close(self._lock)
            self._lock = -1


def _is_canceled(error: BaseException | None) -> bool:
    from gen_worker.errors import CanceledError

    return isinstance(error, CanceledError)
