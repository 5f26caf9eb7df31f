"""Releases that nobody needs any more, deleted; what a tag or a request names always stays."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from gen_worker.cli.platform.api import ApiError

if TYPE_CHECKING:
    from gen_worker.cli.platform.api import Api

__all__ = ["KEPT_RELOADS", "RELOADER", "prune"]

RELOADER = "up --reload"
"""Who makes the releases of a folder that `gen-worker up` watches."""

KEPT_RELOADS = 10
"""Latest releases of an endpoint that `up` leaves alone, so that a tag can be moved back."""

_GONE, _IN_USE = 404, 409


def prune(
    api: Api, owner: str, endpoint: str, *, keep: int, by: str | None = None
) -> list[dict[str, Any]]:
    """Delete old releases; return those that were. Blocks.

    Args:
        api: The platform.
        owner: Whose; empty is everybody's.
        endpoint: Of which endpoint; empty is each.
        keep: How many of the latest of each endpoint stay in any case.
        by: Only what was made by this one.

    Raises:
        ApiError: The platform has refused something else than one that is needed.
    """
    rows = api.get("/v1/releases", owner=owner, endpoint=endpoint)["releases"]
    of_endpoints: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:  # the latest come first
        of_endpoints[row["owner"], row["endpoint"]].append(row)
    gone = []
    for name, found in of_endpoints.items():
        old = [row for row in found[keep:] if not row["tags"] and by in (None, row["created_by"])]
        wanted = _rollback_targets(api, *name) if old else frozenset()
        gone += [row for row in old if row["release_id"] not in wanted and _is_deleted(api, row)]
    return gone


def _rollback_targets(api: Api, owner: str, endpoint: str) -> frozenset[str]:
    """Return what the tags meant before their latest change."""
    changes = api.get("/v1/tags/history", owner=owner, endpoint=endpoint)["changes"]
    latest = {change["tag"]: change["moves"] for change in reversed(changes)}
    return frozenset(move["from_release"] for moves in latest.values() for move in moves)


def _is_deleted(api: Api, row: dict[str, Any]) -> bool:
    try:
        api.delete(f"/v1/releases/{row['owner']}/{row['endpoint']}/{row['release_id']}")
    except ApiError as error:
        if error.status not in (_GONE, _IN_USE):
            raise
        return False
    return True
