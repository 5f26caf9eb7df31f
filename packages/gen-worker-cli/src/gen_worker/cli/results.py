"""What a call answers, printed on stdout: one JSON text per value."""

from __future__ import annotations

import os
import select
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ResultPrinter", "ResultsLostError", "wants_colour"]

_encode = msgspec.json.Encoder(enc_hook=str).encode


def wants_colour(descriptor: int) -> bool:
    """Whether what is written there is read by a person who has not asked for plain text."""
    if not os.isatty(descriptor) or os.environ.get("TERM") == "dumb":
        return False
    from gen_worker.cli.settings import CliSettings
    from gen_worker.settings import load

    return not load(CliSettings).no_color


class ResultsLostError(WorkerError, OSError):
    """Results could not be written to stdout."""


class ResultPrinter:
    """Prints values in the order given; what JSON cannot hold is printed as its text."""

    def __init__(
        self,
        out: BinaryIO,
        *,
        envelope: bool,
        pretty: bool = False,
        aside: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Bind the printer to its stream.

        Args:
            out: The process's real stdout.
            envelope: Print `{"event": …, "value": …}` instead of bare values.
            pretty: Indent by two spaces.
            aside: Entered around each write; takes a progress bar off the terminal meanwhile.
        """
        self._out = out
        self._envelope = envelope
        self._pretty = pretty
        self._aside = aside
        self._show: Callable[[bytes], None] = self._write
        if wants_colour(out.fileno()):
            self._show = self._highlight

    def print(self, event: Literal["yield", "result"], value: Any) -> None:
        """Print one value.

        Raises:
            BrokenPipeError: Nobody reads any more.
            ResultsLostError: It cannot be written, as on a full disk.
        """
        text = _encode({"event": event, "value": value} if self._envelope else value)
        if self._pretty:
            text = msgspec.json.format(text, indent=2)
        with self._aside():
            self._show(text + b"\n")

    def _write(self, text: bytes) -> None:
        view = memoryview(text)
        while view:
            try:
                written = self._out.write(view)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise ResultsLostError(f"cannot write to stdout: {error.strerror}") from error
            if written is None:  # a pipe that somebody else made non-blocking, and that is full
                select.select([], [self._out], [])
            else:
                view = view[written:]

    def _highlight(self, text: bytes) -> None:
        from gen_worker.cli.terminal import highlight_json

        self._write(highlight_json(text.decode()).encode())
