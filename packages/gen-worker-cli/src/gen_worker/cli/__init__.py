"""The `gen-worker` command: one module per subcommand, `main` as the way in.

`gen_worker.cli.command` describes what a command module has to offer.
"""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


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
    try:
        return dispatch(None)
    finally:
        gc.freeze()
