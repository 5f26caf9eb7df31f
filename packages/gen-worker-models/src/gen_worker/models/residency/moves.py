"""Carries plans out: sends copies away, and keeps the book true whatever a move does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gen_worker.models.residency.values import RAM, Fit, Free, Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.residency.book import Book
    from gen_worker.models.residency.movers import Movers
    from gen_worker.models.residency.records import Loaded, Record
    from gen_worker.models.residency.values import Wish

    Load = Callable[[], Any]
    Put = Callable[[Any, str], object]

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
            try:
                stuck = frozenset(copy.number for copy, to in leaving if not self._leave(copy, to))
            except BaseException:
                for copy, _ in leaving:
                    self._book.settle(copy)
                raise
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

    def bring(
        self, model_id: str, place: str, load: Load, put: Put, size_bytes: int
    ) -> Loaded | None:
        """Load a model or move it up, and count the caller as its user.

        Returns:
            The copy; None when another thread has just moved it here.

        Raises:
            Exception: What `load` or `put` raised. The model is then in RAM, or not loaded.
        """
        with self._book.lock:
            known = self._book.record(model_id).size_bytes
        # The parts of a model that is not loaded are unknown; only its size may be known.
        wish = Fit(model_id, place, (Part(f"files:{model_id}", size_bytes or known),))
        self.make_way(wish)
        with self._book.lock:
            moves = self._book.plan(wish, frozenset(), self._movers.allocated_bytes).moves
            if not moves:
                return None
            source = self._book.copy(moves[-1].number)
            if source is not None:
                source.is_moving = True
        if source is None:
            value, parts = self._load(model_id, place, load, put, size_bytes)
        else:
            value, parts = self._lift(source, place, put)
        with self._book.changing(model_id) as record:
            if source is not None:
                record.copies.pop(RAM, None)
            copy = self.register(record, value, place, parts)
            self._book.take(copy)
        # Only now is known what it really takes.
        self.make_way(Free(place, 0), model_id)
        self.make_way(Free(RAM, 0), place=place)
        return copy

    def _load(
        self, model_id: str, place: str, load: Load, put: Put, size_bytes: int
    ) -> tuple[Any, tuple[Part, ...]]:
        allocated = self._movers.allocated_bytes(place)
        value = load()
        self._put(put, model_id, value, place)
        if not self._movers.measure(value):
            taken = self._movers.allocated_bytes(place) - allocated
            size_bytes = taken if taken > 0 else size_bytes
        return value, self.sized(model_id, value, size_bytes, is_measured_first=True)

    def _lift(self, source: Loaded, place: str, put: Put) -> tuple[Any, tuple[Part, ...]]:
        """Move a copy that waits in RAM to a GPU."""
        model_id, value, parts = source.record.model_id, source.value, source.parts
        measured = self._movers.measure(value)
        self._put(put, model_id, value, place, source)
        if self._movers.measure(value) != measured:  # cast, or converted, on its way
            parts = self.sized(model_id, value, None)
        return value, parts

    def _put(
        self, put: Put, model_id: str, value: Any, place: str, source: Loaded | None = None
    ) -> None:
        """Bring an object to its place; after a failure it is whole in RAM, or given up."""
        if place == RAM:
            return
        try:
            put(value, place)
        except BaseException:
            if source is not None:
                self.remove(source)
            self.save(model_id, value)
            raise

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
