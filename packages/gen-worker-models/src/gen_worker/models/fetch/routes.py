"""The locations of one file: which one is used now, which are given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.fetch.values import Location

__all__ = ["Routes"]


class Routes:
    """An ordered ring of locations. Not thread-safe."""

    def __init__(self, locations: Iterable[Location]) -> None:
        self._ring = list(dict.fromkeys(locations))
        self._rangeless: set[Location] = set()
        self._failed: set[Location] = set()

    @property
    def current(self) -> Location | None:
        """The one to ask now; None when all are given up."""
        return self._ring[0] if self._ring else None

    @property
    def serves_ranges(self) -> bool:
        """Whether the current one is asked for parts."""
        return self.current is not None and self.current not in self._rangeless

    def pass_over(self, location: Location) -> bool:
        """Prefer the next location for now; return whether there is one that did not fail yet."""
        self._failed.add(location)
        if self.current == location:
            self._ring.append(self._ring.pop(0))
        if self._failed.issuperset(self._ring):
            self._failed.clear()
            return False
        return True

    def give_up(self, location: Location) -> None:
        """Never ask `location` again; it may be gone already."""
        if location in self._ring:
            self._ring.remove(location)

    def has_no_ranges(self, location: Location) -> bool:
        """Note that `location` sends whole files only; return whether a better one came forward."""
        self._rangeless.add(location)
        self._ring.sort(key=self._rangeless.__contains__)
        return self.serves_ranges
