"""Start one worker of an endpoint for a platform, here and until it is told to end.

The release that the tag means now is asked for; its source folder and lock have to be on this
machine, below the scheduler's data folder (a shared volume, for another machine).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.cli.platform.options import add_platform_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.workers import Ticket

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="[OWNER/]ENDPOINT", help="what it serves")
    parser.add_argument(
        "--tag", metavar="TAG", default="prod", help="tag of the release (default: prod)"
    )
    parser.add_argument(
        "--release", metavar="RELEASE", default="", help="this release, whatever the tag means"
    )
    parser.add_argument(
        "--name", metavar="ID", default="", help="the worker's id (default: one of its own)"
    )
    parser.add_argument(
        "--gateway",
        metavar="ADDR",
        default="",
        help="host:port of the scheduler for workers, where it has another name on this machine",
    )
    parser.add_argument(
        "--python",
        metavar="PATH",
        default="",
        help="interpreter to run it with (default: that of the release's environment)",
    )
    add_platform_options(parser)


def main(args: argparse.Namespace) -> int:
    import sys

    from gen_worker.cli.failures import UsageError
    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.naming import find_endpoint, find_release
    from gen_worker.cli.platform.workers import (
        ENTRYPOINT,
        ask_ticket,
        interpreter_for,
        worker_environment,
    )

    api, folder = find_api(args), DataFolder(args.data)
    owner, endpoint, rows = find_endpoint(api, args.endpoint)
    release_id = ""
    if args.release:
        release_id = find_release(api, owner, endpoint, args.release)["release_id"]
    else:
        meant = [row for row in rows if args.tag in row.get("tags", ())]
        if not meant:
            raise UsageError(
                f"{owner}/{endpoint} has no tag {args.tag!r}: point it to a release with "
                f"`gen-worker promote {owner}/{endpoint} --tag {args.tag}`"
            )
        release_id = meant[0]["release_id"]
    ticket = ask_ticket(
        api, owner=owner, endpoint=endpoint, release_id=release_id, worker_id=args.name
    )
    _check(ticket)
    interpreter = os.path.abspath(args.python) if args.python else interpreter_for(ticket, folder)
    environment = worker_environment(os.environ, ticket, folder, address=args.gateway)
    sys.stdout.flush()
    os.chdir(ticket.source)
    os.execve(interpreter, [interpreter, "-m", ENTRYPOINT], environment)


def _check(ticket: Ticket) -> None:
    """Refuse a release whose files are not on this machine.

    Raises:
        UsageError: They are not.
    """
    from gen_worker.cli.failures import UsageError

    for path in (ticket.source, ticket.lock):
        if not os.path.exists(path):
            raise UsageError(
                f"{path!r} is not on this machine: run the worker where the scheduler's data "
                "folder is, under the same path"
            )
