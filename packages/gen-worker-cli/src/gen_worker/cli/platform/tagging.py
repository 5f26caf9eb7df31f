"""Moves of tags, and how they are told."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.results import ResultPrinter

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.api import Api

__all__ = ["change_tag"]


def change_tag(
    api: Api, args: argparse.Namespace, action: str, owner: str, endpoint: str, **more: str
) -> int:
    """Ask for a change of the tag that `--tag` names, and print it."""
    body = {"action": action, "owner": owner, "endpoint": endpoint, "tag": args.tag, **more}
    change = api.post("/v1/tags", body | ({"reason": args.reason} if args.reason else {}))
    if args.json or not os.isatty(sys.stdout.fileno()):
        sys.stdout.flush()
        ResultPrinter(sys.stdout.buffer, envelope=False).print("result", change)
        return 0
    moves = (change or {}).get("moves", ())
    if not moves:
        print(f"{owner}/{endpoint}:{args.tag} points there already", file=sys.stderr)
    for move in moves:
        before = move["from_release"][:12] or "nothing"
        after = move["to_release"][:12] or "nothing"
        name = f"{owner}/{endpoint}/{move['function']}:{args.tag}"
        print(f"{name}: {before} → {after}", file=sys.stderr)
    return 0
