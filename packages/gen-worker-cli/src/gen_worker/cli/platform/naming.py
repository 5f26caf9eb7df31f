"""Endpoints, functions and releases as people name them, and what the platform calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.cli.failures import UsageError
from gen_worker.names import slugify_name

if TYPE_CHECKING:
    from gen_worker.cli.platform.api import Api

__all__ = ["Named", "find_endpoint", "find_named", "find_release", "split_endpoint"]


class Named(NamedTuple):
    """What a tag of an endpoint, or of one of its functions, belongs to."""

    owner: str
    endpoint: str
    function: str
    """Empty: all of them."""
    tag: str
    """Empty: the name has none."""
    releases: list[dict[str, Any]]


def split_endpoint(name: str) -> tuple[str, str]:
    """Return owner and endpoint of `[owner/]endpoint`; empty is anybody's and any."""
    owner, _, endpoint = name.rpartition("/")
    return slugify_name(owner), slugify_name(endpoint)


def find_endpoint(api: Api, name: str) -> tuple[str, str, list[dict[str, Any]]]:
    """Return the owner and name of the one endpoint that is meant, and its releases.

    Raises:
        UsageError: There is none, or several owners have one.
    """
    owner, endpoint = split_endpoint(name)
    rows = api.get("/v1/releases", owner=owner, endpoint=endpoint)["releases"]
    found = sorted({(row["owner"], row["endpoint"]) for row in rows})
    if len(found) == 1:
        return *found[0], rows
    if not found:
        known = {f"{row['owner']}/{row['endpoint']}" for row in api.get("/v1/releases")["releases"]}
        listed = ", ".join(sorted(known)) or "none is deployed yet"
        raise UsageError(f"there is no endpoint {name!r}; there are: {listed}")
    listed = ", ".join("/".join(one) for one in found)
    raise UsageError(f"{name or 'the endpoint'!r} may be one of several: {listed}")


def find_named(api: Api, name: str) -> Named:
    """Return what `[owner/]endpoint[/function][:tag]` means.

    Raises:
        UsageError: It means nothing, or may mean several.
    """
    path, _, tag = name.partition(":")
    try:
        owner, endpoint, rows = find_endpoint(api, path)
    except UsageError as error:
        return _find_function(api, path, error)._replace(tag=tag)
    return Named(owner, endpoint, "", tag, rows)


def _find_function(api: Api, path: str, no_endpoint: UsageError) -> Named:
    before, _, last = path.rpartition("/")
    try:
        owner, endpoint, rows = find_endpoint(api, before)
    except UsageError:
        raise no_endpoint from None
    known = sorted({one for row in rows for one in row["functions"]})
    if not before or slugify_name(last) not in known:
        if before.count("/"):
            listed = ", ".join(known)
            raise UsageError(f"{before!r} has no function {last!r}; there are: {listed}")
        raise no_endpoint
    return Named(owner, endpoint, slugify_name(last), "", rows)


def find_release(api: Api, owner: str, endpoint: str, release: str) -> dict[str, Any]:
    """Return the one release whose id begins like this.

    Raises:
        UsageError: There is none, or several begin so.
    """
    rows = api.get("/v1/releases", owner=owner, endpoint=endpoint)["releases"]
    found = [row for row in rows if row["release_id"].startswith(release.lower())]
    if len(found) == 1:
        return dict(found[0])
    if not found:
        known = ", ".join(row["release_id"][:12] for row in rows[:10]) or "none"
        raise UsageError(f"there is no release {release!r}; there are: {known}")
    listed = ", ".join(f"{row['owner']}/{row['endpoint']} {row['release_id']}" for row in found)
    raise UsageError(f"release {release!r} may be one of several: {listed}")
