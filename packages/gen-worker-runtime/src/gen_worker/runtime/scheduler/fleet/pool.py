"""The workers of one release, ready for placement to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.costs import GpuClass
from gen_worker.runtime.scheduler.snapshots import InOrder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.scheduler.fleet.member import Member

__all__ = ["Pool"]


class Pool:
    """Keeps what placement looks at: of hundreds of workers one changes between two looks."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._places: dict[str, int] = {}
        """By worker id, where its state is in each list; empty until there is one."""
        self._lists: dict[int, InOrder] = {}
        """By width."""
        self._changed: dict[int, set[Member]] = {}
        """By width, members whose state there is not the present one."""
        self._classes: tuple[GpuClass, ...] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def add(self, member: Member) -> None:
        """Take in a worker; it may be here already."""
        if member.worker_id not in self._members:
            self._members[member.worker_id] = member
            self.reorder()
        member.pool = self

    def discard(self, member: Member) -> None:
        """Know a worker no more."""
        if self._members.get(member.worker_id) is member:
            del self._members[member.worker_id]
            member.pool = None
            self.reorder()

    def reorder(self) -> None:
        """Make everything anew when it is asked for."""
        self._places.clear()
        self._lists.clear()
        self._changed.clear()
        self._classes = None

    def touched(self, member: Member) -> None:
        """Note that something about a worker has changed."""
        for changed in self._changed.values():
            changed.add(member)

    def states(self, width: int) -> InOrder:
        """Return what the workers are now; not to be kept.

        Args:
            width: Calls that one run of the function takes together.
        """
        states = self._lists.get(width)
        if states is None:
            names = sorted(self._members)
            self._places = {name: place for place, name in enumerate(names)}
            states = InOrder(self._members[name].state(width) for name in names)
            self._lists[width], self._changed[width] = states, set()
        elif changed := self._changed[width]:
            for member in changed:
                states[self._places[member.worker_id]] = member.state(width)
            changed.clear()
        return states

    def classes(self) -> tuple[GpuClass, ...]:
        """Return the kinds of GPU of its workers, once each."""
        if self._classes is None:
            found = {
                member.hardware.gpu_class: member.hardware.vram_bytes
                for member in self._members.values()
            }
            self._classes = tuple(GpuClass(name, size) for name, size in found.items())
        return self._classes
