"""Moves of tags, and how they are told."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.failures import UsageError
from gen_worker.cli.host import local_owner
from gen_worker.cli.results import ResultPrinter

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.api import Api
    from gen_worker.cli.platform.naming import Named

__all__ = ["change_tag"]


def change_tag(api: Api, args: argparse.Namespace, action: str, named: Named, **more: str) -> int:
    """Ask for a change of the tag that `--tag` or the name says, and print it.

    Raises:
        UsageError: They say two.
    """
    tag = args.tag or named.tag or "prod"
    if named.tag not in ("", tag):
        raise UsageError(f"which tag is meant, {named.tag!r} of the name or {tag!r} of --tag?")
    endpoint = f"{named.owner}/{named.endpoint}"
    body = {"action": action, "owner": named.owner, "endpoint": named.endpoint, "tag": tag, **more}
    wishes = {"function": named.function, "reason": args.reason, "by": local_owner()}
    change = api.post("/v1/tags", body | {key: wish for key, wish in wishes.items() if wish})
    if args.json or not os.isatty(sys.stdout.fileno()):
        sys.stdout.flush()
        ResultPrinter(sys.stdout.buffer, envelope=False).print("result", change)
        return 0
    moves = (change or {}).get("moves", ())
    if not moves:
        name = "/".join(filter(None, (endpoint, named.function)))
        print(f"{name}:{tag} points there already", file=sys.stderr)
    for move in moves:
        before = move["from_release"][:12] or "nothing"
        after = move["to_release"][:12] or "nothing"
        name = f"{endpoint}/{move['function']}:{tag}"
        print(f"{name}: {before} → {after}", file=sys.stderr)
    return 0
