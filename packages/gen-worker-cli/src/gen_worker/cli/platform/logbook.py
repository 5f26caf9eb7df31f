"""What the processes of a platform say: kept in files, and shown at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, TextIO

from gen_worker.cli.platform.lines import told

if TYPE_CHECKING:
    from gen_worker.cli.platform.lines import Block

__all__ = ["Logbook", "Screen", "painted", "stamp"]

_MAX_FILE_BYTES = 8 * 1024 * 1024
_MAX_WAITING = 2_000
_COLOURS = (36, 35, 32, 33, 34, 96, 95, 92)
_LEVELS = {"warning": "33", "error": "31", "critical": "1;31", "debug": "2"}
_PLAIN_LEVELS = frozenset(("info", "notset", ""))


class Screen:
    """Writes lines to a stream. One that is read slowly holds nobody up: lines are left out."""

    def __init__(self, stream: TextIO, *, is_coloured: bool) -> None:
        self.is_coloured = is_coloured
        self._stream: TextIO | None = stream
        self._waiting: deque[str] = deque()
        self._left_out = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def show(self, text: str) -> None:
        """Show whole lines."""
        with self._changed:
            if len(self._waiting) >= _MAX_WAITING:
                self._left_out += 1
                return
            if self._left_out:
                self._waiting.append(f"… {self._left_out} lines left out, see gen-worker logs\n")
                self._left_out = 0
            self._waiting.append(text)
            self._changed.notify()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what waits, unless nobody reads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                text = "".join(self._waiting)
                self._waiting.clear()
            if self._stream is None:
                continue
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the files still tell
                self._stream = None


class Logbook:
    """Keeps every line with its time, and shows it in words."""

    def __init__(self, folder: str, screen: Screen) -> None:
        """Keep files in a folder, one for each name; it is made where there is none."""
        self._folder = folder
        self._screen = screen
        self._files: dict[str, BinaryIO] = {}
        self._width = 9
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def write(self, name: str, block: Block) -> None:
        """Keep and show what a process has written."""
        self._keep(name, block)
        shown = [painted(name, line, self._width, self._screen.is_coloured) for line in block.lines]
        self._width = max(self._width, len(name))
        if any(shown):
            self._screen.show("".join(filter(None, shown)))

    def close(self) -> None:
        while self._files:
            _, file = self._files.popitem()
            with suppress(OSError):  # of what a full disk has not taken
                file.close()

    def _keep(self, name: str, block: Block) -> None:
        at = stamp(time.time())
        text = "".join(f"{at} {line}\n" for line in block.lines)
        # A disk that is full stops no process; what was said is on the screen.
        with suppress(OSError):
            file = self._file(name)
            file.write(text.encode("utf-8", "replace"))
            file.flush()

    def _file(self, name: str) -> BinaryIO:
        path = os.path.join(self._folder, f"{name}.log")
        file = self._files.get(name)
        if file is not None and file.tell() > _MAX_FILE_BYTES:
            del self._files[name]
            file.close()
            os.replace(path, f"{path}.1")
            file = None
        if file is None:
            file = self._files[name] = open(path, "ab")
        return file


def stamp(at: float) -> str:
    """Return a time as log files have it, in UTC."""
    parts = time.gmtime(at)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', parts)}.{int(at * 1000) % 1000:03d}Z"


def painted(name: str, line: str, width: int, is_coloured: bool) -> str:
    """Return one line of a process as it is shown; empty for one that nobody needs to see."""
    found = told(line)
    if found is None:
        return ""
    text, level = found
    text = text.removeprefix(f"gen-worker {name}: ")
    word = "" if level in _PLAIN_LEVELS else f"{level}: "
    head = f"{name:<{width}} | "
    if is_coloured:
        head = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{head}\x1b[0m"
        if level in _LEVELS:
            text = f"\x1b[{_LEVELS[level]}m{word}{text}\x1b[0m"
            word = ""
    return "".join(f"{head}{one}\n" for one in f"{word}{text}".split("\n"))


def open_screen() -> Screen:
    """Show on standard error, in colour for a person."""
    from gen_worker.cli.results import wants_colour

    return Screen(sys.stderr, is_coloured=wants_colour(sys.stderr.fileno()))
