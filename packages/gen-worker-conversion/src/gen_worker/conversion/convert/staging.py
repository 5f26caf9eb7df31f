"""Where outputs are until all of them are complete: beside their place, with their journals."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.side_files import is_weights
from gen_worker.conversion.writer import Journal
from gen_worker.conversion.writer.output_file import (
    make_directories,
    remove_empty,
    write_failure,
    write_small_file,
)
from gen_worker.errors import WorkerError
from gen_worker.models.store.durable import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from gen_worker.conversion.convert.values import ConversionRequest

__all__ = [
    "Staging",
    "discard_outputs",
    "finish_publishing",
    "finished_bytes",
    "is_half_published",
    "name_of",
    "recipe_of",
]

_OUTPUT, _LOCK, _RECIPE = "output", "lock", "recipe"
_SMALL_BYTES = 1 << 20


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


def recipe_of(request: ConversionRequest) -> str:
    """Return what an interrupted conversion is recognised by: all that decides about its bytes."""
    from gen_worker.version import sdk_version

    asked = msgspec.json.encode(request).decode()
    return f"{sdk_version()} {_fingerprint(request.source, *_read_beside(request))} {asked}"


def name_of(request: ConversionRequest) -> str:
    """Return the name of a conversion whose place follows from what it makes."""
    from blake3 import blake3

    recipe = recipe_of(msgspec.structs.replace(request, out=""))
    return str(blake3(recipe.encode()).hexdigest(length=8))


def _read_beside(request: ConversionRequest) -> Iterator[str]:
    """Yield the paths that are read besides the source."""
    yield from (one.path for one in request.loras)
    yield from request.merge.models if request.merge is not None else ()
    yield from filter(None, (request.gguf.importance, request.gguf.base, request.configs))
    if request.calibration is not None:
        yield request.calibration.path


def _fingerprint(*paths: str) -> str:
    """Return what tells files from those that were there before: names and contents.

    Of weights, and of whatever is large, size and time stand for the content.
    """
    import hashlib

    digest = hashlib.sha256()
    for name, place in (item for path in paths for item in sorted(_files(path))):
        with suppress(OSError):  # a link to nowhere is refused where it is read
            facts = os.stat(place)
            digest.update(f"{name}\0{facts.st_size}\0".encode("utf-8", "replace"))
            if is_weights(name) or facts.st_size > _SMALL_BYTES:
                digest.update(f"{facts.st_mtime_ns}\n".encode())
            else:
                with open(place, "rb") as file:
                    digest.update(file.read(_SMALL_BYTES))
    return digest.hexdigest()


def _files(path: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a path by their names in it."""
    if os.path.isfile(path):
        yield os.path.basename(path), path
    for parent, _, names in os.walk(path):
        for name in names:
            place = os.path.join(parent, name)
            yield os.path.relpath(place, path), place


def is_half_published(request: ConversionRequest) -> bool:
    """Tell whether a run of this request was killed after its outputs came to their place."""
    out = request.out
    if os.path.lexists(os.path.join(_beside(out), _OUTPUT)) or not os.path.isdir(out):
        return False
    return _text_in(_mark_of(out)) == f"{_identity(out)} {recipe_of(request)}"


def finish_publishing(out: str) -> None:
    """Remove what a run leaves beside outputs that are in their place."""
    shutil.rmtree(_beside(out), ignore_errors=True)
    with suppress(OSError):
        os.unlink(_mark_of(out))  # last: a kill before it is told by it


def _mark_of(out: str) -> str:
    """Return the file that says which directory is on its way to its place, and what it is."""
    parent, name = os.path.split(out)
    return os.path.join(parent, f".{name}.converted")


def _identity(directory: str) -> str:
    """Return what a directory keeps under another name."""
    facts = os.stat(directory)
    return f"{facts.st_dev}:{facts.st_ino}"


def discard_outputs(out: str) -> None:
    """Remove outputs that are no longer needed; a half of them is never found in their place.

    Raises:
        ConversionError: They cannot be removed.
    """
    hidden = os.path.join(_beside(out), _OUTPUT)  # the next conversion to there clears it
    try:
        os.makedirs(_beside(out), exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(out, hidden)
    except OSError as error:
        raise write_failure(out, error) from error
    finish_publishing(out)


def _text_in(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""


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
        self._made: list[str] = []

    def __enter__(self) -> Staging:
        self._made = make_directories(self.root)
        try:
            self._claim()
        except OSError as error:
            remove_empty(self._made)
            raise write_failure(self.root, error) from error
        try:
            self._begin()
        except Exception as error:
            self._remove()
            self._release()
            if isinstance(error, OSError) and not isinstance(error, WorkerError):
                raise write_failure(self.root, error) from error
            raise
        return self

    def _begin(self) -> None:
        known = _text_in(os.path.join(self.root, _RECIPE))
        if not self._may_resume or known != self._recipe:
            self._clear()
        os.makedirs(self.output, exist_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        if kind is not None and not is_interrupted and not _is_canceled(error):
            self._remove()
        self._release()

    def _remove(self) -> None:
        finish_publishing(self.out)
        remove_empty(self._made)

    def journal(self, name: str) -> Journal:
        """Return the journal of one component of one output."""
        return Journal(os.path.join(self.root, f"{name}.journal"), self._recipe)

    def publish(self) -> None:
        """Put the outputs in their place, all at once."""
        mark = f"{_identity(self.output)} {self._recipe}"
        write_small_file(_mark_of(self.out), mark.encode())
        try:
            os.replace(self.output, self.out)
            fsync_directory(os.path.dirname(self.out))
        except OSError as error:
            raise write_failure(self.out, error) from error
        finish_publishing(self.out)

    def _clear(self) -> None:
        for entry in os.scandir(self.root):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            elif entry.name != _LOCK:
                os.unlink(entry.path)
        write_small_file(os.path.join(self.root, _RECIPE), self._recipe.encode())

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
