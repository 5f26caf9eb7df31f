"""The command line's side of a call that runs in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.events import Delta, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.events import Event

__all__ = ["PrintingSink"]


class PrintingSink:
    """Prints values as they come; when that fails, the call is canceled."""

    wants_events = False

    def __init__(self, printer: ResultPrinter, token: CancelToken) -> None:
        self._printer = printer
        self._token = token
        self._broken: OSError | None = None

    def deliver(self, batch: Sequence[Event]) -> None:
        for event in batch:
            try:
                if isinstance(event, Delta) and self._broken is None:
                    self._printer.print("yield", event.value)
                elif isinstance(event, Result) and self._broken is None:
                    self._printer.print("result", event.value)
            except OSError as error:
                self._broken = error
                self._token.cancel("disconnect")

    def raise_if_broken(self) -> None:
        """Raise what stopped the printing, if anything did."""
        if self._broken is not None:
            raise self._broken
