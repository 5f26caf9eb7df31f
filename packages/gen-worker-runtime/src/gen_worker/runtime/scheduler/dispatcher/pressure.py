"""Workers are not read from while the disk is behind with what they have said."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Future

    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.fleet.member import Member

__all__ = ["Pressure"]

_LOOK_S = 0.1


class Pressure:
    """Counts what was said and is not on disk. On the loop.

    A worker that is not read from holds its functions back.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._held: dict[str, Member] = {}
        """Workers that are not read from."""
        self._total_bytes = 0
        self._is_looking = False

    @property
    def unwritten_bytes(self) -> int:
        return self._total_bytes

    def took(self, member: Member, written: Future[None], size_bytes: int) -> None:
        """Count what a worker has said, until it is on disk."""
        if written.done():
            return
        member.unwritten_bytes += size_bytes
        self._total_bytes += size_bytes
        written.add_done_callback(partial(self._written, member, size_bytes))
        if member.worker_id not in self._held and not self._has_room(member, 1):
            self._hold(member)

    def _written(self, member: Member, size_bytes: int, written: Future[None]) -> None:
        if not written.cancelled():
            written.exception()  # whoever owns requests has ended this one for it
        member.unwritten_bytes -= size_bytes
        self._total_bytes -= size_bytes
        if self._held:
            self._look()

    def _has_room(self, member: Member, parts: int) -> bool:
        """Tell whether less than so many parts of what may be unwritten is."""
        options = self._core.options
        return (
            member.unwritten_bytes * parts <= options.max_unwritten_bytes
            and self._total_bytes * parts <= options.max_all_unwritten_bytes
            and not self._core.requests.is_behind
        )

    def _hold(self, member: Member) -> None:
        if member.session is None:
            return
        self._held[member.worker_id] = member
        member.session.pause_reading()
        if not self._is_looking:
            self._is_looking = True
            self._core.later(_LOOK_S, self._look_again)

    def _look(self) -> None:
        for worker_id, member in list(self._held.items()):
            if self._has_room(member, 2):
                del self._held[worker_id]
                if member.session is not None:
                    member.session.resume_reading()

    def _look_again(self) -> None:
        """See whether the disk has caught up with what others have said."""
        self._look()
        self._is_looking = bool(self._held)
        if self._is_looking:
            self._core.later(_LOOK_S, self._look_again)
