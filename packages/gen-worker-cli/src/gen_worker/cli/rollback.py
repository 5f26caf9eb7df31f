"""Point a tag to where it pointed before; --forward takes that back.

Nothing is built or published: the earlier release is still there.
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
    parser.add_argument("--forward", action="store_true", help="undo the last rollback")
    parser.add_argument(
        "--tag", metavar="TAG", default="", help="which tag (default: that of NAME, else prod)"
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="for the tag's history")
    add_platform_options(parser)
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.platform.naming import find_named
    from gen_worker.cli.platform.tagging import change_tag

    api = find_api(args)
    action = "forward" if args.forward else "rollback"
    return change_tag(api, args, action, find_named(api, args.endpoint))
