"""Tags: what callers' names mean, and who has moved them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gen_worker.runtime.scheduler.releases import tag_tables
from gen_worker.runtime.scheduler.releases.names import (
    Directory,
    checked_owner,
    checked_slug,
    checked_tag,
)
from gen_worker.runtime.scheduler.releases.tables import required
from gen_worker.runtime.scheduler.releases.tag_tables import Author, TagOf
from gen_worker.runtime.scheduler.releases.values import DEFAULT_TAG

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Future
    from collections.abc import Callable
    from typing import Any

    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.releases.values import (
        ResolvedFunction,
        TagAction,
        TagChange,
        TagTarget,
    )

__all__ = ["Tags"]

T = TypeVar("T")


class Tags:
    """The tags of one scheduler's releases. On the ledger's loop.

    What is awaited is committed, and a name means it from then on. Who stops waiting takes nothing
    back.
    """

    def __init__(self, ledger: Ledger, directory: Directory) -> None:
        """Use `Tags.open`.

        Args:
            ledger: They are in its database.
            directory: Where they point now.
        """
        self._ledger = ledger
        self._directory = directory

    @classmethod
    async def open(cls, ledger: Ledger) -> Tags:
        """Read where they point."""
        return cls(ledger, Directory(await ledger.ask(tag_tables.targets)))

    def resolve(self, name: str) -> ResolvedFunction:
        """Return what `[[owner/]endpoint/]function[:tag]` means now; the tag is `prod` if left out.

        Raises:
            UnknownFunctionError: There is no such function or tag, or several owners or endpoints
                have one; the message lists what there is.
        """
        return self._directory.resolve(name)

    def lead_to(self, owner: str, endpoint: str, release_id: str) -> bool:
        """Return whether some name means a function of this release now."""
        return self._directory.lead_to(owner, endpoint, release_id)

    async def promote(
        self,
        owner: str,
        endpoint: str,
        release_id: str,
        *,
        tag: str = DEFAULT_TAG,
        function: str = "",
        by: str = "",
        reason: str = "",
    ) -> TagChange | None:
        """Point a tag at a release; None when it does already.

        Args:
            owner: Whose endpoint.
            endpoint: Which.
            release_id: Where to.
            tag: Which.
            function: Only this one's; by default all that the release has, and those that it does
                not have lose the tag.
            by: Who does it.
            reason: Why.

        Raises:
            UnknownReleaseError: There is no such release, or it has no such function.
            ValidationError: A name is none.
            LedgerWriteError: Nothing is changed.
        """
        name = _named(owner, endpoint, tag)
        function = function and checked_slug("function", function)

        def change(connection: sqlite3.Connection, now: float) -> TagChange | None:
            release = required(connection, name.owner, name.endpoint, release_id)
            author = Author(now, by, reason)
            return tag_tables.promote(connection, name, release, function, author)

        return await self.change(change)

    async def rollback(
        self,
        owner: str,
        endpoint: str,
        *,
        tag: str = DEFAULT_TAG,
        function: str = "",
        by: str = "",
        reason: str = "",
    ) -> TagChange | None:
        """Point a tag at what it pointed to before; asked again, at what was before that.

        Args:
            owner: Whose endpoint.
            endpoint: Which.
            tag: Which.
            function: Only this one's; by default whatever the latest change has moved.
            by: Who does it.
            reason: Why.

        Raises:
            UnknownReleaseError: There is no such tag.
            NoOtherReleaseError: There is nothing before.
            LedgerWriteError: Nothing is changed.
        """
        name = _named(owner, endpoint, tag)
        return await self._move(name, "rollback", function, by, reason)

    async def forward(
        self,
        owner: str,
        endpoint: str,
        *,
        tag: str = DEFAULT_TAG,
        function: str = "",
        by: str = "",
        reason: str = "",
    ) -> TagChange | None:
        """Take the latest `rollback` back that no promotion has followed; arguments are its own.

        Raises:
            UnknownReleaseError: There is no such tag.
            NoOtherReleaseError: Nothing was moved back.
            LedgerWriteError: Nothing is changed.
        """
        name = _named(owner, endpoint, tag)
        return await self._move(name, "forward", function, by, reason)

    async def remove(
        self, owner: str, endpoint: str, tag: str, *, by: str = "", reason: str = ""
    ) -> TagChange | None:
        """Forget a tag, and what it pointed to before; None when there is no such tag."""
        name = _named(owner, endpoint, tag)
        return await self.change(
            lambda connection, now: tag_tables.drop_tag(connection, name, Author(now, by, reason))
        )

    async def targets(self) -> tuple[TagTarget, ...]:
        """Return where every tag of every function points."""
        return await self._ledger.ask(tag_tables.targets)

    async def history(
        self, owner: str, endpoint: str, *, tag: str | None = None, limit: int = 100
    ) -> tuple[TagChange, ...]:
        """List what was changed about an endpoint's tags, the latest first."""
        name = checked_owner(owner), checked_slug("endpoint", endpoint), tag
        return await self._ledger.ask(lambda reader: tag_tables.history_of(reader, *name, limit))

    async def change(self, change: Callable[[sqlite3.Connection, float], T]) -> T:
        """Have rows changed; names mean it before anybody is told."""

        def changed(connection: sqlite3.Connection, now: float) -> tuple[T, Directory]:
            outcome = change(connection, now)
            return outcome, Directory(tag_tables.targets(connection))

        future = self._ledger.transact(changed)
        future.add_done_callback(self._take)
        return (await future)[0]

    async def _move(
        self, tag: TagOf, action: TagAction, function: str, by: str, reason: str
    ) -> TagChange | None:
        function = function and checked_slug("function", function)
        return await self.change(
            lambda connection, now: tag_tables.move(
                connection, tag, action, function, Author(now, by, reason)
            )
        )

    def _take(self, future: Future[tuple[Any, Directory]]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._directory = future.result()[1]


def _named(owner: str, endpoint: str, tag: str) -> TagOf:
    return TagOf(checked_owner(owner), checked_slug("endpoint", endpoint), checked_tag(tag))
