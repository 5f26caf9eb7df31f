"""Releases of endpoints: published, pointed at by tags, called by name, deleted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from gen_worker.runtime.scheduler.releases import tables
from gen_worker.runtime.scheduler.releases.errors import RefusedReleaseError
from gen_worker.runtime.scheduler.releases.names import checked_owner, checked_slug, checked_tag
from gen_worker.runtime.scheduler.releases.store import ReleaseStore
from gen_worker.runtime.scheduler.releases.tags import Tags
from gen_worker.runtime.scheduler.releases.values import ReleaseLimits, ReleaseRecord

if TYPE_CHECKING:
    import os
    from collections.abc import Coroutine
    from typing import Any

    from gen_worker.manifest import Manifest
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.releases.values import Published, StoredRelease

__all__ = ["Releases"]

T = TypeVar("T")
_log = logging.getLogger("gen_worker.scheduler")

_LIMITS = ReleaseLimits()


class Releases:
    """All releases of one scheduler. On the ledger's loop; close it before the ledger.

    What is awaited is committed, and a name means it from then on. Who stops waiting takes nothing
    back.
    """

    def __init__(self, store: ReleaseStore, ledger: Ledger, tags: Tags) -> None:
        """Use `Releases.open`.

        Args:
            store: Their folders.
            ledger: Their rows are in its database.
            tags: Point to them.
        """
        self.tags = tags
        self._store = store
        self._ledger = ledger
        self._changing = asyncio.Lock()
        """Of folders: between a folder and its row nobody else publishes or deletes."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls, folder: str | os.PathLike[str], ledger: Ledger, limits: ReleaseLimits = _LIMITS
    ) -> Releases:
        """Open the releases of a folder, and remove what a crash has left of others.

        Args:
            folder: Of releases; made where there is none.
            ledger: Open, so that nobody else uses the folder.
            limits: How large a release may be.

        Raises:
            ReleaseWriteError: The folder cannot be written.
        """
        wanted = await ledger.ask(tables.release_ids)
        store = await asyncio.to_thread(ReleaseStore, folder, limits)
        removed = await asyncio.to_thread(store.sweep, wanted)
        if removed:
            _log.warning("releases of which nobody was told are removed: %s", ", ".join(removed))
        lost = wanted - frozenset(store.ids())
        if lost:
            _log.error("releases have no folder in %s: %s", store.folder, ", ".join(sorted(lost)))
        return cls(store, ledger, await Tags.open(ledger))

    async def close(self) -> None:
        """Wait for what was begun."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- changes -----------------------------------------------------------------------------------

    async def publish(
        self,
        project: str | os.PathLike[str],
        *,
        lock: bytes,
        environment: str,
        owner: str,
        endpoint: str = "",
        by: str = "",
        first_tag: str = "",
    ) -> Published:
        """Make a release of a project; what is published again is there already.

        Args:
            project: Its folder.
            lock: Its endpoint.lock.
            environment: Name of the environment its workers run in.
            owner: Whose endpoint.
            endpoint: Its name; by default the lock's.
            by: Who publishes.
            first_tag: Tag that is pointed at it if it is the endpoint's first; none by default.

        Raises:
            RefusedReleaseError: Something in the project or its lock cannot be published.
            ProjectChangedError: A file changed meanwhile.
            LockError: The lock is none.
            ValidationError: A name is none.
            ReleaseWriteError: The disk of the releases is full, or cannot be written.
            LedgerWriteError: The ledger's is.
        """
        owner = checked_owner(owner)
        if endpoint:
            checked_slug("endpoint", endpoint)
        if first_tag:
            checked_tag(first_tag)

        async def work() -> Published:
            release, manifest = await asyncio.to_thread(
                self._store.put, project, lock=lock, environment=environment
            )
            try:
                record = _record(release, manifest, owner, endpoint, by, project)
                return await self.tags.change(
                    lambda connection, now: tables.record(
                        connection, record._replace(created_at=now), manifest, first_tag
                    )
                )
            except BaseException:
                await self._remove_unless_wanted(release.release_id)
                raise

        return await self._alone(work())

    async def delete(self, owner: str, endpoint: str, release_id: str) -> None:
        """Delete a release that nobody needs.

        Raises:
            UnknownReleaseError: There is no such release.
            ReleaseInUseError: A tag or an unfinished request names it.
            LedgerWriteError: Nothing is changed.
            ReleaseWriteError: It is deleted; its folder goes at the next start.
        """
        name = checked_owner(owner), checked_slug("endpoint", endpoint), release_id

        async def work() -> None:
            is_named = self.tags.lead_to(*name)
            is_last = await self.tags.change(
                lambda connection, _: tables.delete(connection, *name, is_named=is_named)
            )
            if is_last:
                await asyncio.to_thread(self._store.remove, release_id)

        await self._alone(work())

    # -- questions ---------------------------------------------------------------------------------

    async def stored(self, release_id: str) -> StoredRelease:
        """Return a release's folder, once every byte of it was looked at.

        Raises:
            DamagedReleaseError: It is not what was published; the error names the file.
        """
        return await asyncio.to_thread(self._store.open, release_id)

    async def manifest(self, owner: str, endpoint: str, release_id: str) -> Manifest:
        """Return a release's lock.

        Raises:
            UnknownReleaseError: There is no such release.
        """
        name = checked_owner(owner), checked_slug("endpoint", endpoint), release_id
        return await self._ledger.ask(lambda reader: tables.manifest_of(reader, *name))

    async def releases(
        self, owner: str | None = None, endpoint: str | None = None
    ) -> tuple[ReleaseRecord, ...]:
        """List releases, the latest first."""
        return await self._ledger.ask(lambda reader: tables.releases_of(reader, owner, endpoint))

    # ----------------------------------------------------------------------------------------------

    async def _alone(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, whoever waits, and nothing else with folders meanwhile."""

        async def alone() -> T:
            async with self._changing:
                return await work

        task = asyncio.create_task(alone())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _remove_unless_wanted(self, release_id: str) -> None:
        if release_id not in await self._ledger.ask(tables.release_ids):
            await asyncio.to_thread(self._store.remove, release_id)


def _record(
    release: StoredRelease,
    manifest: Manifest,
    owner: str,
    endpoint: str,
    by: str,
    project: str | os.PathLike[str],
) -> ReleaseRecord:
    named = endpoint or manifest.endpoint_name
    if not named:
        problem = "its lock has no name for the endpoint: say which one it is"
        raise RefusedReleaseError(str(project), [problem])
    return ReleaseRecord(
        number=0,
        owner=owner,
        endpoint=checked_slug("endpoint", named),
        release_id=release.release_id,
        created_at=0.0,
        created_by=by,
        environment=release.contents.environment,
        functions=tuple(function.name for function in manifest.functions),
    )
