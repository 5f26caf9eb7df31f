"""Releases as the API finds them: by name, by tag, with the tags that point to each."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.scheduler.releases import UnknownReleaseError
from gen_worker.runtime.scheduler.releases.names import checked_owner, checked_slug, checked_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.runtime.scheduler.releases import ReleaseRecord, Releases, StoredRelease

__all__ = ["ReleaseName", "Shelf"]

ReleaseName = tuple[str, str, str]
"""Owner, endpoint and release id."""


class Shelf:
    """The releases of one scheduler, for questions."""

    def __init__(self, releases: Releases, default_owner: str | None) -> None:
        """Look at releases.

        Args:
            releases: Them.
            default_owner: Whose endpoints are meant where nobody is named.
        """
        self.all = releases
        self.default_owner = default_owner

    async def releases(
        self, owner: str | None = None, endpoint: str | None = None
    ) -> Sequence[ReleaseRecord]:
        """List them, the latest first."""
        return await self.all.releases(owner, endpoint)

    async def tags(self) -> dict[ReleaseName, tuple[str, ...]]:
        """Return the tags that lead to some function of each release."""
        found: defaultdict[ReleaseName, set[str]] = defaultdict(set)
        for target in await self.all.tags.targets():
            found[target.owner, target.endpoint, target.release_id].add(target.tag)
        return {name: tuple(sorted(tags)) for name, tags in found.items()}

    async def stored(self, release_id: str) -> StoredRelease:
        """Return its folders, once every byte of them was looked at."""
        return await self.all.stored(release_id)

    async def one(self, owner: str, endpoint: str, release_id: str) -> ReleaseRecord:
        """Return a release by its id.

        Raises:
            UnknownReleaseError: There is none.
        """
        owner, endpoint = checked_owner(owner), checked_slug("endpoint", endpoint)
        found = await self.releases(owner, endpoint)
        for release in found:
            if release.release_id == release_id:
                return release
        known = ", ".join(release.release_id for release in found[:5])
        raise UnknownReleaseError(
            f"{owner}/{endpoint} has no release {release_id!r:.200}: "
            + (f"the latest are {known}" if known else "it has none, publish one")
        )

    async def find(self, owner: str, endpoint: str, release_id: str, tag: str) -> ReleaseRecord:
        """Return a release by its id, or else the one that a tag means.

        Raises:
            UnknownReleaseError: There is none.
            Refusal: 409, the tag means several, each for some functions.
        """
        if release_id:
            return await self.one(owner, endpoint, release_id)
        owner, endpoint = checked_owner(owner), checked_slug("endpoint", endpoint)
        name = (owner, endpoint, checked_tag(tag))
        meant = {
            target.release_id
            for target in await self.all.tags.targets()
            if (target.owner, target.endpoint, target.tag) == name
        }
        if not meant:
            raise UnknownReleaseError(f"there is no tag {owner}/{endpoint}:{tag}")
        if len(meant) > 1:
            raise Refusal(
                409,
                "several_releases",
                f"{owner}/{endpoint}:{tag} means {len(meant)} releases: give a `release_id`",
                releases=sorted(meant),
            )
        return await self.one(owner, endpoint, meant.pop())
