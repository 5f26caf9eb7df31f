"""Show what the processes of a `gen-worker up` on this machine have written.

NAME is one of them, as `gen-worker ps` lists it, or an endpoint for all its workers; without one
the lines of all are merged by time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import whole_number

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="whose lines")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=whole_number(0),
        default=200,
        help="the last so many lines (default: 200; 0 is all)",
    )
    parser.add_argument("--raw", action="store_true", help="as they were written, with their time")
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="",
        help="data folder of the platform (default: GEN_WORKER_DATA_DIR, else "
        "~/.local/share/gen-worker)",
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.reading import show_logs

    return show_logs(
        DataFolder(args.data), args.name, lines=args.lines, follows=args.follow, is_raw=args.raw
    )
