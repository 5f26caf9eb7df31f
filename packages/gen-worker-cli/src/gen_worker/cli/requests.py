"""List, show and cancel a platform's requests.

Without ID the latest are listed; with one, all that is known of it is printed, its answer too, or
with --follow what it produces and reports, from its beginning to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.cli.options import whole_number
from gen_worker.cli.platform.options import add_json_option, add_platform_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.api import Api

__all__ = ["configure", "main"]

_PAGE = 1000
_STATUSES = ("queued", "running", "succeeded", "failed", "canceled")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="one request")
    parser.add_argument(
        "--cancel", action="store_true", help="cancel the request, or all that the filters leave"
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print what the request produces, as it comes"
    )
    parser.add_argument("--status", choices=_STATUSES, help="only those")
    parser.add_argument(
        "--function", metavar="NAME", default="", help="only of [[owner/]endpoint/]function[:tag]"
    )
    parser.add_argument("--owner", metavar="OWNER", default="", help="only of this caller")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(1, 100_000),
        default=20,
        help="at most so many (default: 20)",
    )
    add_platform_options(parser)
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.api import find_api

    api = find_api(args)
    if args.follow:
        return _follow(api, args)
    if args.id:
        return _cancel(api, [args.id]) if args.cancel else _show(api, args.id)
    if args.cancel:
        return _cancel_all(api, args)
    return _list(api, args)


def _follow(api: Api, args: argparse.Namespace) -> int:
    from gen_worker.cli.failures import UsageError

    if not args.id or args.cancel:
        raise UsageError("--follow needs the id of a request, and nothing else")
    from gen_worker.cli.platform.following import follow

    return follow(api, args.id)


def _show(api: Api, request_id: str) -> int:
    import sys

    from gen_worker.cli.results import ResultPrinter

    answer = api.get(f"/v1/requests/{request_id}")
    sys.stdout.flush()
    ResultPrinter(sys.stdout.buffer, envelope=False, pretty=sys.stdout.isatty()).print(
        "result", answer
    )
    return 0


def _list(api: Api, args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.tables import ago, print_rows

    print_rows(
        _found(api, args),
        {
            "ID": lambda row: row["request_id"],
            "STATUS": _status,
            "FUNCTION": _function,
            "OWNER": lambda row: row.get("owner") or "-",
            "AGE": lambda row: ago(row.get("created_at")),
            "ATTEMPT": lambda row: row.get("attempt", "-"),
            "WORKER": lambda row: row.get("worker_id") or "-",
            "ERROR": lambda row: row.get("error_type") or "-",
        },
        as_json=args.json,
        name="requests",
        nothing="there are no such requests",
        optional=frozenset({"OWNER", "ERROR"}),
    )
    return 0


def _status(row: dict[str, Any]) -> str:
    position = row.get("position")
    return f"{row['status']} ({position} before)" if position else str(row["status"])


def _function(row: dict[str, Any]) -> str:
    name = "/".join(filter(None, (row.get("endpoint"), row["function"])))
    return ":".join(filter(None, (name, row.get("tag"))))


def _found(api: Api, args: argparse.Namespace, **more: str) -> list[dict[str, Any]]:
    """Return requests, the latest first; asked for in pages."""
    asked = {"status": args.status or "", "function": args.function, "owner": args.owner, **more}
    rows: list[dict[str, Any]] = []
    cursor = ""
    while len(rows) < args.limit:
        limit = min(args.limit - len(rows), _PAGE)
        page = api.get("/v1/requests", limit=limit, cursor=cursor, **asked)
        rows += page["requests"]
        cursor = page["next"] or ""
        if not cursor:
            break
    return rows


def _cancel_all(api: Api, args: argparse.Namespace) -> int:
    from gen_worker.cli.failures import UsageError

    if not (args.status or args.function or args.owner):
        raise UsageError("--cancel needs the id of a request, or filters: --status, --function …")
    rows: list[dict[str, Any]] = []
    for status in (args.status,) if args.status else ("queued", "running"):
        rows += _found(api, args, status=status)
    return _cancel(api, [row["request_id"] for row in rows[: args.limit]])


def _cancel(api: Api, ids: list[str]) -> int:
    """Cancel requests and say what became of each; exit code 1 where one had ended already."""
    import sys

    code = 0
    for request_id in ids:
        answer = api.delete(f"/v1/requests/{request_id}")
        is_canceled = answer["canceled"]
        words = "is canceled" if is_canceled else f"had ended already: {answer['status']}"
        print(f"{request_id} {words}", file=sys.stderr)
        code = code if is_canceled else 1
    if not ids:
        print("there are no such requests", file=sys.stderr)
    return code
