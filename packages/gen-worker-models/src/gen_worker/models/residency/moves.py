"""Carries plans out: sends copies away, and keeps the book true whatever a move does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gen_worker.models.residency.values import RAM, Fit, Free, Part

if TYPE_CHECKING:
    from gen_worker.models.residency.book import Book
    from gen_worker.models.residency.movers import Movers
    from gen_worker.models.residency.records import Loaded, Record
    from gen_worker.models.residency.values import Wish

__all__ = ["Moves"]

_log = logging.getLogger("gen_worker.models")


class Moves:
    """The moves of one residency. Every method is called with the place's mutex held."""

    def __init__(self, book: Book, movers: Movers) -> None:
        self._book = book
        self._movers = movers
        self.over_commits = 0

    def make_way(self, wish: Wish, newcomer: str = "", place: str = "") -> int:
        """Send away what a plan says; return how many bytes are still missing.

        Args:
            wish: What room is made for.
            newcomer: The model it is for.
            place: The GPU whose mutex is held, when it is not the wish's own place.
        """
        failed: frozenset[int] = frozenset()
        moved = False
        while True:
            with self._book.lock:
                stays = failed | self._elsewhere(place or wish.place)
                decision = self._book.plan(wish, stays, self._movers.allocated_bytes)
                leaving = [
                    (copy, move.place)
                    for move in decision.moves
                    if move.place in ("", RAM)
                    and not (isinstance(wish, Fit) and move.place == wish.place)
                    and (copy := self._book.copy(move.number)) is not None
                ]
                for copy, _ in leaving:
                    copy.is_moving = True
            stuck = frozenset(copy.number for copy, to in leaving if not self._leave(copy, to))
            moved |= len(stuck) < len(leaving)
            if not stuck:
                break
            failed |= stuck
        if moved:
            self._movers.flush()
        if newcomer and decision.short_bytes:
            self.over_commits += 1
            _log.warning(
                "model %r takes %s %d bytes over its budget, and nothing else can leave",
                newcomer,
                wish.place,
                decision.short_bytes,
            )
        return decision.short_bytes

    def save(self, model_id: str, value: Any) -> None:
        """After a move that failed: the object is whole in RAM, or it is given up."""
        if not self._movers.is_offloaded(value):
            try:
                self._movers.to_ram(value, self._book.keys_on_gpus())
            except Exception:
                _log.warning("model %r could not be moved back to RAM", model_id, exc_info=True)
            else:
                with self._book.changing(model_id) as record:
                    parts = self.sized(model_id, value, None)
                    self.register(record, value, RAM, parts)
        self._movers.flush()
        self.make_way(Free(RAM, 0))

    def mark(self, copy: Loaded) -> bool:
        """Mark a copy as moving; False when it is used, moved or gone meanwhile."""
        with self._book.lock:
            if (
                copy.record.leases
                or copy.is_moving
                or copy.record.copies.get(copy.place) is not copy
            ):
                return False
            copy.is_moving = True
            return True

    def lower(self, copy: Loaded) -> bool:
        """Move a marked copy's object to RAM; its place changes only when that worked."""
        model_id = copy.record.model_id
        try:
            if not self._movers.is_offloaded(copy.value):
                self._movers.to_ram(copy.value, self._book.keys_on_gpus(besides=copy))
        except BaseException as error:
            self._book.settle(copy)
            if not isinstance(error, Exception):
                raise
            _log.warning("model %r stays on %s", model_id, copy.place, exc_info=True)
            return False
        with self._book.changing(model_id) as record:
            record.copies.pop(copy.place, None)
            copy.place, copy.held_bytes, copy.is_moving = RAM, None, False
            record.copies.setdefault(RAM, copy)
        return True

    def remove(self, copy: Loaded) -> None:
        """Give a copy's object up, but for the parts that a model in RAM waits with."""
        waiting = self._book.keys_in_ram() - self._book.keys_on_gpus(besides=copy)
        mine = {part.key for part in copy.parts}
        if copy.place != RAM and not waiting.isdisjoint(mine):
            try:
                self._movers.to_ram(copy.value, mine - waiting)
            except Exception:
                _log.warning("parts of model %r stay on %s", copy.record.model_id, copy.place)
        with self._book.changing(copy.record.model_id) as record:
            if record.copies.get(copy.place) is copy:
                del record.copies[copy.place]
            copy.value = None

    def register(self, record: Record, value: Any, place: str, parts: tuple[Part, ...]) -> Loaded:
        """Enter an object into the book, with the lock held."""
        return self._book.register(
            record,
            value,
            place,
            parts,
            held_bytes=self.held_bytes(value, place),
            is_movable=self._movers.can_move(value),
        )

    def held_bytes(self, value: Any, place: str) -> int | None:
        """Return what an offloaded object keeps of its GPU; None for one that is not offloaded."""
        if place == RAM or not self._movers.is_offloaded(value):
            return None
        return self._movers.held_bytes(value, place)

    def sized(
        self,
        model_id: str,
        value: Any,
        size_bytes: int | None,
        *,
        is_measured_first: bool = False,
    ) -> tuple[Part, ...]:
        """Return the parts of an object, scaled to a size that was declared."""
        parts = self._movers.measure(value)
        measured = sum(part.size_bytes for part in parts)
        if size_bytes is None or (measured and is_measured_first):
            return parts
        if not measured:
            return (Part(f"object:{id(value):x}", size_bytes),)
        scaled = [Part(x.key, x.size_bytes * size_bytes // measured) for x in parts]
        rest = size_bytes - sum(part.size_bytes for part in scaled)
        scaled[-1] = Part(scaled[-1].key, scaled[-1].size_bytes + rest)
        return tuple(scaled)

    def _elsewhere(self, place: str) -> frozenset[int]:
        """Return the copies on GPUs whose mutex is not held."""
        return frozenset(x.number for x in self._book.copies() if x.place not in (place, RAM))

    def _leave(self, copy: Loaded, place: str) -> bool:
        """Send a copy that is marked as moving away; tell whether it has gone."""
        if place == RAM:
            return self.lower(copy)
        self.remove(copy)
        return True
