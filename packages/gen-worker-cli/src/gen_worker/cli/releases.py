"""List releases, the latest first, and the tags that point to them.

With --history the changes of the tags are listed instead: who moved which, when and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.cli.options import whole_number
from gen_worker.cli.platform.options import add_json_option, add_platform_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "endpoint", nargs="?", default="", metavar="[OWNER/]ENDPOINT", help="only of this one"
    )
    parser.add_argument("--history", action="store_true", help="list what happened to the tags")
    parser.add_argument("--delete", metavar="RELEASE", default="", help="delete a release")
    parser.add_argument(
        "--prune",
        metavar="N",
        type=whole_number(0),
        default=None,
        help="delete all but the latest N of each endpoint that no tag and no request needs",
    )
    add_platform_options(parser)
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.platform.naming import find_endpoint, split_endpoint

    api = find_api(args)
    owner, endpoint = split_endpoint(args.endpoint)
    if args.delete:
        from gen_worker.cli.platform.naming import find_release

        row = find_release(api, owner, endpoint, args.delete)
        api.delete(f"/v1/releases/{row['owner']}/{row['endpoint']}/{row['release_id']}")
        return 0
    if args.prune is not None:
        from gen_worker.cli.platform.pruning import prune

        gone = prune(api, owner, endpoint, keep=args.prune)
        _print_releases({"releases": gone}, args, nothing="nothing was deleted")
        return 0
    if args.history:
        _print_history(api.get("/v1/tags/history", owner=owner, endpoint=endpoint), args)
    else:
        found = api.get("/v1/releases", owner=owner, endpoint=endpoint)
        if args.endpoint and not found["releases"]:
            find_endpoint(api, args.endpoint)  # says what there is
        _print_releases(found, args)
    return 0


def _print_releases(
    found: dict[str, Any],
    args: argparse.Namespace,
    nothing: str = "nothing is deployed: gen-worker deploy publishes a project",
) -> None:
    from gen_worker.cli.platform.tables import ago, print_rows

    print_rows(
        found["releases"],
        {
            "ENDPOINT": lambda row: f"{row['owner']}/{row['endpoint']}",
            "RELEASE": lambda row: row["release_id"][:12],
            "TAGS": lambda row: ", ".join(row.get("tags", ())) or "-",
            "AGE": lambda row: ago(row.get("created_at")),
            "ENVIRONMENT": lambda row: row.get("environment", "-"),
            "FUNCTIONS": lambda row: ", ".join(row["functions"]),
        },
        as_json=args.json,
        name="releases",
        nothing=nothing,
    )


def _print_history(found: dict[str, Any], args: argparse.Namespace) -> None:
    from gen_worker.cli.platform.tables import ago, print_rows

    print_rows(
        found["changes"],
        {
            "ENDPOINT": lambda row: f"{row['owner']}/{row['endpoint']}",
            "TAG": lambda row: row["tag"],
            "ACTION": lambda row: row["action"],
            "AGE": lambda row: ago(row.get("changed_at")),
            "BY": lambda row: row.get("changed_by") or "-",
            "TO": lambda row: ", ".join(
                sorted({move["to_release"][:12] or "nothing" for move in row["moves"]})
            ),
            "REASON": lambda row: row.get("reason") or "",
        },
        as_json=args.json,
        name="changes",
        nothing="no tag was ever moved",
    )
