"""Run everything of production on this machine: model hub, scheduler, workers and the HTTP API.

Serves the projects that are named, or the one in the current folder, or whatever was deployed
before. What is changed in a project is deployed at once. Requests, releases and models are kept in
the data folder; the next `gen-worker up` on it continues where this one ends.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.options import whole_number

if TYPE_CHECKING:
    import argparse
    from contextlib import ExitStack

    from gen_worker.cli.platform.supervisor import UpOptions

__all__ = ["configure", "main"]

_CONFIG = "endpoint.toml"
_INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "projects", nargs="*", metavar="PROJECT", help="folders with an endpoint.toml"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=whole_number(0, 1000),
        default=1,
        help="workers of each endpoint (default: 1)",
    )
    parser.add_argument(
        "--http",
        metavar="ADDR",
        default="",
        help="where the API answers: host:port or :port, 0 for any free port, and one for the hub "
        "(default: 127.0.0.1:8787); beyond this machine every request needs a token",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="",
        help="where everything is kept (default: GEN_WORKER_DATA_DIR, else "
        "~/.local/share/gen-worker)",
    )
    parser.add_argument(
        "--tag", metavar="TAG", default="prod", help="tag for the projects' code (default: prod)"
    )
    parser.add_argument(
        "--no-reload",
        action="store_true",
        help="deploy a project only if nothing of its endpoint is deployed yet, and no changes",
    )
    parser.add_argument("--no-hub", action="store_true", help="run no model hub")
    parser.add_argument(
        "--json", action="store_true", help="print the URLs as JSON, as is done for a pipe"
    )


def main(args: argparse.Namespace) -> int:
    import asyncio
    from contextlib import ExitStack

    from gen_worker.cli.collecting import collect_rarely
    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.logbook import open_screen
    from gen_worker.cli.platform.supervisor import Supervisor, refuse_other_scheduler

    projects = _projects(args.projects)
    folder = DataFolder(args.data)
    claimed = folder.claim()
    screen, claims = open_screen(), ExitStack()

    def announce(urls: dict[str, str]) -> None:
        if args.json or not sys.stdout.isatty():
            import msgspec

            print(msgspec.json.encode(urls).decode(), flush=True)

    async def run() -> int:
        collect_rarely()
        return await Supervisor(_options(args, projects, claims), folder, screen, announce).run()

    try:
        refuse_other_scheduler(folder)
        return asyncio.run(run())
    except asyncio.CancelledError:  # ended at once
        return _INTERRUPTED
    finally:
        screen.close()
        claims.close()
        os.close(claimed)


def _projects(named: list[str]) -> tuple[str, ...]:
    """Return the folders to serve: those named, else this one if it is a project.

    Raises:
        UsageError: A folder that is named is no project.
    """
    from gen_worker.cli.failures import UsageError

    if not named:
        return (os.getcwd(),) if os.path.isfile(_CONFIG) else ()
    folders = [os.path.abspath(one.removesuffix(_CONFIG) or ".") for one in named]
    missing = [one for one in folders if not os.path.isfile(os.path.join(one, _CONFIG))]
    if missing:
        problems = tuple(f"there is no {_CONFIG} in {one!r}" for one in missing)
        raise UsageError("; ".join(problems), problems=problems)
    return tuple(dict.fromkeys(folders))


def _options(args: argparse.Namespace, projects: tuple[str, ...], claims: ExitStack) -> UpOptions:
    from gen_worker.cli.hub import DEFAULT_PORT
    from gen_worker.cli.platform.ports import free_address
    from gen_worker.cli.platform.supervisor import UpOptions
    from gen_worker.runtime.scheduler.settings import SchedulerSettings
    from gen_worker.settings import load

    settings, usual = load(SchedulerSettings, http=args.http or None), SchedulerSettings()
    is_named = bool(args.http) or settings.http != usual.http
    http = free_address(settings.http, is_fixed=is_named, claims=claims)
    is_any = http.endswith(":0")
    gateway = "127.0.0.1:0" if settings.workers == usual.workers else settings.workers
    return UpOptions(
        projects=projects,
        workers=args.workers,
        http=http,
        gateway=free_address(gateway, is_fixed=True, claims=claims),
        hub_port=None if args.no_hub else 0 if is_any else DEFAULT_PORT,
        tag=args.tag,
        reloads=not args.no_reload,
    )
