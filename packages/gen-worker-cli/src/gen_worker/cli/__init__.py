"""The `gen-worker` command: one module per subcommand, `main` as the way in.

`gen_worker.cli.command` describes what a command module has to offer.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# `run` of a small endpoint loads 200, torch alone 1,000.
_MODULES_OF_A_SHORT_COMMAND = 700


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `gen-worker` command and return its exit code.

    Args:
        argv: The words of the command; None takes the process's own, which is then about to end.
    """
    from gen_worker.cli.command import dispatch

    if argv is not None:
        return dispatch(argv)
    # Modules are no garbage: looking for some while they are loaded, and once more at the end,
    # takes a fifth of a short command. `open_endpoint` turns the collector on again.
    gc.disable()
    _open_missing_streams()
    try:
        return dispatch(None)
    finally:
        _end_collecting()


def _end_collecting() -> None:
    """Spare a short command the last collections; a long one's libraries may rely on them.

    nanobind, which torch's compiler uses, lists whatever was not collected as leaked.
    """
    if len(sys.modules) < _MODULES_OF_A_SHORT_COMMAND:
        gc.freeze()
    else:
        gc.unfreeze()


def _open_missing_streams() -> None:
    """Point standard streams that were closed (`2>&-`) at nothing, so that they can be used."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
