"""Point a tag to a release: requests that name the tag, or none for `prod`, go there from now on.

RELEASE may be the beginning of its id; without one it is the latest. A request keeps the release
that its name meant when it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.platform.options import add_json_option, add_platform_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "endpoint", metavar="NAME", help="whose tag: [owner/]endpoint[/function][:tag]"
    )
    parser.add_argument(
        "release", nargs="?", default="", metavar="RELEASE", help="where to (default: the latest)"
    )
    parser.add_argument(
        "--tag", metavar="TAG", default="", help="which tag (default: that of NAME, else prod)"
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="for the tag's history")
    add_platform_options(parser)
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.platform.naming import find_named, find_release
    from gen_worker.cli.platform.tagging import change_tag

    api = find_api(args)
    named = find_named(api, args.endpoint)
    row = named.releases[0]
    if args.release:
        row = find_release(api, named.owner, named.endpoint, args.release)
    return change_tag(api, args, "promote", named, release_id=row["release_id"])
