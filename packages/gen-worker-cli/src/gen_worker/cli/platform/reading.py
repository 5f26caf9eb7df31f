"""Log files of a platform, read back: the last lines, and what is written from then on."""

from __future__ import annotations

import heapq
import os
import sys
import time
from collections import deque
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.logbook import painted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gen_worker.cli.platform.folder import DataFolder

__all__ = ["Tail", "chosen_names", "show_logs"]

_POLL_S = 0.2


class Line(NamedTuple):
    """One line of a log; they sort by time, and stay in order where that is the same."""

    at: str
    name: str
    text: str


def show_logs(folder: DataFolder, wanted: str, *, lines: int, follows: bool, is_raw: bool) -> int:
    """Print lines of a platform's processes on standard output.

    Raises:
        UsageError: There is no such process.
    """
    from gen_worker.cli.results import wants_colour

    names = chosen_names(folder, wanted)
    is_coloured = wants_colour(sys.stdout.fileno())
    width = max(map(len, names))

    def show(found: Iterable[Line]) -> None:
        for line in found:
            if is_raw:
                sys.stdout.write(f"{line.at} {line.name} {line.text}\n")
            else:
                sys.stdout.write(painted(line.name, line.text, width, is_coloured))
        sys.stdout.flush()

    files = ExitStack()
    tails = {name: files.enter_context(closing(Tail(_path(folder, name)))) for name in names}
    old = heapq.merge(
        *(_old(folder, name, tail) for name, tail in tails.items()), key=lambda line: line.at
    )
    with files:
        show(deque(old, maxlen=lines) if lines else old)
        while follows:
            time.sleep(_POLL_S)
            for name in set(chosen_names(folder, wanted)) - tails.keys():
                tails[name] = files.enter_context(closing(Tail(_path(folder, name))))
            new = (_lines(name, tail.read()) for name, tail in tails.items())
            show(heapq.merge(*new, key=lambda line: line.at))
    return 0


def chosen_names(folder: DataFolder, wanted: str) -> list[str]:
    """Return whose logs are meant.

    Raises:
        UsageError: Nothing of that name was ever written.
    """
    known = list(folder.log_files())
    if not known:
        raise UsageError(f"there are no logs in {folder.logs!r}: start a platform, `gen-worker up`")
    if not wanted:
        return known
    endpoint = wanted.rpartition("/")[2]
    found = [name for name in known if wanted == name or name.rpartition(".")[0] == endpoint]
    if not found:
        raise UsageError(f"nothing is called {wanted!r}; there are: {', '.join(known)}")
    return found


def _path(folder: DataFolder, name: str) -> str:
    return os.path.join(folder.logs, f"{name}.log")


class Tail:
    """Reads a file that grows to its end, and then the one that has taken its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> bytes:
        """Return the whole lines that are new."""
        found = b""
        while True:
            if self._file is not None:
                data = self._rest + self._file.read()
                end = data.rfind(b"\n") + 1
                found, self._rest = found + data[:end], data[end:]
            if not self._goes_on():
                return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _goes_on(self) -> bool:
        """Open the file that has the name now, unless that is the one that is read."""
        try:
            file = open(self._path, "rb")
        except FileNotFoundError:
            return False
        if self._file is not None:
            if os.path.sameopenfile(file.fileno(), self._file.fileno()):
                file.close()
                return False
            self._file.close()
        self._file, self._rest = file, b""
        return True


def _old(folder: DataFolder, name: str, tail: Tail) -> Iterator[Line]:
    with closing(Tail(_path(folder, name) + ".1")) as older:
        yield from _lines(name, older.read())
    yield from _lines(name, tail.read())


def _lines(name: str, data: bytes) -> Iterator[Line]:
    for raw in data.decode("utf-8", "replace").split("\n")[:-1]:
        at, _, text = raw.partition(" ")
        yield Line(at, name, text)
