"""A complete hub over one directory: the store, its records, and the application that serves it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gen_worker.models.hub.capability import Permissions
from gen_worker.models.hub.local.app import HubApp
from gen_worker.models.hub.local.blobs import Blobs
from gen_worker.models.hub.local.catalog import Catalog
from gen_worker.models.hub.local.collection import Collected, collect
from gen_worker.models.hub.local.database import Database
from gen_worker.models.hub.local.ingest import Ingests
from gen_worker.models.hub.local.media import Media
from gen_worker.models.hub.local.publications import Publications
from gen_worker.models.hub.local.rooms import HubOptions, Rooms
from gen_worker.models.hub.local.signing import Signer, load_key
from gen_worker.models.hub.local.tokens import SCOPES, Tokens
from gen_worker.models.hub.local.uploads import Limits, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from gen_worker.models.hub.local.ingest import Ingester
    from gen_worker.models.hub.local.tokens import Authority

__all__ = ["LocalHub"]

_DAY_S = 86_400.0
_WORK_THREADS = 16
_FILE_THREADS = 16


class LocalHub:
    """Publishes, resolves and serves models from a directory.

    `app` is a plain ASGI application: any server can run it. Everything that was answered survives
    the end of the process at any moment; several processes may use one directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        options: HubOptions | None = None,
        anonymous: Collection[str] = (),
        admin_token: str = "",
        authority: Authority | None = None,
        ingester: Ingester | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open a hub; the directory is made when it is not there.

        Args:
            directory: Holds everything: blobs, records, uploads under way, and the hub's key.
            options: Limits and lifetimes.
            anonymous: Scopes of callers without a token, of `read`, `write` and `admin`.
            admin_token: A token of your own that may do everything, besides those of `issue_token`.
            authority: Says who bears a token that is not of the hub's own making.
            ingester: Fetches public models; without one, a model that is not here is refused.
            now: The time, for lifetimes of URLs and tokens.
        """
        self.directory = os.path.abspath(directory)
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        key = load_key(self._path("key"))
        database = Database(self._path("hub.sqlite3"))
        tokens = Tokens(
            database,
            key,
            now=now,
            anonymous=anonymous,
            admin_token=admin_token,
            authority=authority,
        )
        self._rooms = self._open(
            options or HubOptions(), database, tokens, Signer(key, now), ingester, now
        )
        self.app = HubApp(self._rooms)
        rooms = self._rooms
        for revision in rooms.publications.unfinished():
            rooms.work.submit(rooms.publications.commit_later, revision)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _open(
        self,
        options: HubOptions,
        database: Database,
        tokens: Tokens,
        signer: Signer,
        ingester: Ingester | None,
        now: Callable[[], float],
    ) -> Rooms:
        """Make what is behind the routes."""
        blobs = Blobs(self._path("cas"))
        catalog = Catalog(database, now)
        publications = Publications(database, catalog, blobs, now=now, ttl_s=options.revision_ttl_s)
        media = Media(database, blobs, now)
        limits = Limits(part_bytes=options.part_bytes, max_file_bytes=options.max_file_bytes)
        work = ThreadPoolExecutor(_WORK_THREADS, "hub-work")
        return Rooms(
            options=options,
            now=now,
            database=database,
            blobs=blobs,
            media=media,
            catalog=catalog,
            publications=publications,
            uploads=Uploads(database, blobs, media, self._path("staging"), limits, now),
            tokens=tokens,
            signer=signer,
            ingests=Ingests(
                database,
                catalog,
                publications,
                blobs,
                root=self._path("ingest"),
                now=now,
                work=ThreadPoolExecutor(2, "hub-ingest"),
                ingester=ingester,
            ),
            files=ThreadPoolExecutor(_FILE_THREADS, "hub-files"),
            work=work,
        )

    @property
    def media(self) -> Media:
        """Files that belong to no repository."""
        return self._rooms.media

    def __enter__(self) -> LocalHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way and close the records."""
        self._rooms.work.shutdown(cancel_futures=True)
        self._rooms.files.shutdown(cancel_futures=True)
        self._rooms.ingests.close()
        self._rooms.database.close()

    def issue_token(self, *scopes: str, subject: str = "local", ttl_s: float = 365 * _DAY_S) -> str:
        """Return a token with scopes of `read`, `write` and `admin`; each contains those before."""
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ValueError(f"{unknown!r}: give one or more of {', '.join(SCOPES)}")
        return self._rooms.tokens.issue(
            subject=subject, ttl_s=ttl_s, claims={"scopes": list(scopes)}
        )

    def issue_capability(
        self,
        *,
        read: Collection[str] = (),
        publish: Collection[str] = (),
        create: tuple[str, Collection[str]] | None = None,
        max_total_bytes: int = 0,
        max_bytes_per_file: int = 0,
        subject: str = "worker",
        ttl_s: float = _DAY_S,
    ) -> str:
        """Return a token for one job.

        Args:
            read: Repositories it may read.
            publish: Repositories it may read and publish to.
            create: An owner, and the names it may create there; no names means any.
            max_total_bytes: Of its uploads under way at once; 0 is no limit.
            max_bytes_per_file: Of one file; 0 is no limit.
            subject: Whom it is for.
            ttl_s: How long it is valid.
        """
        owner, names = create or ("", ())
        wanted = Permissions(
            read=tuple(read),
            publish=tuple(publish),
            create_owner=owner,
            create_names=tuple(names),
            max_total_bytes=max_total_bytes,
            max_bytes_per_file=max_bytes_per_file,
        )
        return self._rooms.tokens.issue(subject=subject, ttl_s=ttl_s, claims=wanted.claims())

    def revoke(self, token: str) -> None:
        """Make a token useless from now on."""
        self._rooms.tokens.revoke(token)

    def collect_garbage(self, *, older_than_s: float = _DAY_S, untagged: bool = False) -> Collected:
        """Remove blobs that nothing refers to, and uploads nobody went on with.

        Args:
            older_than_s: What is younger stays: somebody may just be publishing it.
            untagged: Also give up checkpoints that no tag leads to.
        """
        rooms = self._rooms
        return collect(
            rooms.database,
            rooms.blobs,
            rooms.uploads,
            now=rooms.now,
            older_than_s=older_than_s,
            untagged=untagged,
        )
