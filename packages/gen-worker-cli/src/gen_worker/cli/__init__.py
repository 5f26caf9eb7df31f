"""The `gen-worker` command: one module per subcommand, `main` as the way in.

`gen_worker.cli.command` describes what a command module has to offer.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `gen-worker` command and return its exit code."""
    from gen_worker.cli.command import dispatch

    return dispatch(argv)
