"""Publish a release of a project to a platform: what the project is now, unchangeable from then on.

Publishing moves no traffic, except that the tag `prod` is pointed at an endpoint's first release.
--promote points `prod` to the new release, --tag another tag.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.platform.options import add_platform_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument(
        "project", nargs="?", default=".", metavar="PROJECT", help="its folder (default: this one)"
    )
    parser.add_argument(
        "--name",
        metavar="[OWNER/]ENDPOINT",
        default="",
        help="what it is called (default: you, and the project's name)",
    )
    parser.add_argument(
        "--tag", metavar="TAG", default="", help="point this tag to the release as well"
    )
    parser.add_argument("--promote", action="store_true", help="point `prod` to the release")
    parser.add_argument(
        "--python",
        metavar="PATH",
        default="",
        help="interpreter that its workers run with (default: the project's .venv, if it has "
        "gen-worker, else the one that runs this)",
    )
    parser.add_argument(
        "--environment",
        metavar="NAME",
        default="",
        help="environment of its workers, as the platform's machine calls it",
    )
    add_platform_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON, as is done wherever stdout is no terminal"
    )
    # For `gen-worker up`: the platform is just starting; leave alone what is deployed; who it is.
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--unless-deployed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--by", default="", help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.platform.deploying import deploy
    from gen_worker.cli.results import ResultPrinter

    out = divert_stdout()
    deployed = deploy(args)
    if args.json or not os.isatty(out.fileno()):
        ResultPrinter(out, envelope=False).print("result", deployed)
        return 0
    name = f"{deployed.owner}/{deployed.endpoint}"
    what = "is" if deployed.is_new else "was there already: it is"
    tags = f"; {', '.join(deployed.tags)} means it now" if deployed.tags else ""
    print(f"{name}: {what} release {deployed.release_id}{tags}", file=sys.stderr)
    if not deployed.tags and deployed.is_new:
        print(f"next: gen-worker promote {name} {deployed.release_id[:12]}", file=sys.stderr)
    return 0
