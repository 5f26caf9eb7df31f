"""The one book of models: every reader and every mover sees and changes the same records."""

from __future__ import annotations

import itertools
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.models.residency.planner import accounted_bytes, plan
from gen_worker.models.residency.records import (
    Inventory,
    Loaded,
    ModelInUseError,
    Record,
    TierChange,
)
from gen_worker.models.residency.values import RAM, Copy, Facts, Part, Room, Trim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.residency.budgets import Limits
    from gen_worker.models.residency.values import Plan, Wish

__all__ = ["CANCEL_POLL_S", "Book"]

CANCEL_POLL_S = 0.05

_log = logging.getLogger("gen_worker.models")


class Book:
    """Records by model id, under one lock that is never held while anything is moved."""

    def __init__(self, limits: Limits, observe: Callable[[TierChange], None] | None) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.limits = limits
        self.records: dict[str, Record] = {}
        self._observe = observe
        self._numbers = itertools.count(1)

    @contextmanager
    def changing(self, model_id: str) -> Iterator[Record]:
        """Give a record to change, locked; then tell the observer of its new tier, unlocked."""
        with self.lock:
            record = self.record(model_id)
            before = record.tier
            yield record
            now = record.tier
            self._changed.notify_all()
        if before != now and self._observe is not None:
            try:
                self._observe(TierChange(model_id, before, now))
            except Exception:
                _log.exception("the observer of model tiers failed for %r", model_id)

    def wait_while_moving(self, model_id: str, place: str, token: CancelToken | None) -> None:
        """Block while another thread moves a model's copy away from a place; a cancel ends it."""
        with self.lock:
            while (record := self.records.get(model_id)) and (copy := record.copies.get(place)):
                if not copy.is_moving:
                    return
                self._changed.wait(CANCEL_POLL_S if token else None)
                if token is not None:
                    token.raise_if_canceled()

    def settle(self, copy: Loaded) -> None:
        """Say that a copy stays where it is after all."""
        with self.lock:
            copy.is_moving = False
            self._changed.notify_all()

    def record(self, model_id: str) -> Record:
        """Return a model's record, a new one if there is none; call with the lock held."""
        record = self.records.get(model_id)
        if record is None:
            record = self.records[model_id] = Record(model_id)
        return record

    def copies(self) -> list[Loaded]:
        return [copy for record in self.records.values() for copy in record.copies.values()]

    def copy(self, number: int) -> Loaded | None:
        return next((copy for copy in self.copies() if copy.number == number), None)

    def idle_copies(self, model_id: str) -> list[Loaded]:
        """Return a model's copies, none of which another thread moves now.

        Raises:
            ModelInUseError: A request uses one of them.
        """
        with self.lock:
            while (record := self.records.get(model_id)) is not None:
                if record.leases:
                    raise ModelInUseError(model_id, record.leases)
                if not any(copy.is_moving for copy in record.copies.values()):
                    return list(record.copies.values())
                self._changed.wait()
            return []

    def register(
        self,
        record: Record,
        value: Any,
        place: str,
        parts: tuple[Part, ...],
        *,
        held_bytes: int | None = None,
        is_movable: bool = True,
    ) -> Loaded:
        """Enter an object; one that is there already is replaced, its leases stay."""
        number = next(self._numbers)
        copy = record.copies.get(place)
        if copy is None:
            copy = record.copies[place] = Loaded(record, number, place)
        copy.value, copy.parts, copy.held_bytes = value, parts, held_bytes
        copy.is_movable, copy.is_moving = is_movable, False
        copy.last_used = record.last_used = number
        record.size_bytes = sum(part.size_bytes for part in parts)
        record.progress = None
        return copy

    def take(self, copy: Loaded) -> None:
        """Count one user more, with the lock held."""
        copy.leases += 1
        self.touch(copy)

    def touch(self, copy: Loaded) -> None:
        copy.last_used = copy.record.last_used = next(self._numbers)

    def plan(self, wish: Wish, stays: frozenset[int], allocated: Callable[[str], int]) -> Plan:
        """Ask the planner, with the lock held.

        Args:
            wish: What is to be true.
            stays: Numbers of copies that cannot be moved by the caller.
            allocated: Tells what tensors take of a GPU, as its allocator says.
        """
        facts = self._facts(wish.place, allocated)
        return plan(facts, wish if isinstance(wish, Trim) else wish._replace(stays=stays))

    def used_bytes(self, place: str) -> int:
        with self.lock:
            return accounted_bytes(self._copy_facts(), place)

    def keys_on_gpus(self, besides: Loaded | None = None) -> frozenset[str]:
        """Return the parts that copies on GPUs hold."""
        with self.lock:
            return frozenset(
                part.key
                for copy in self.copies()
                if copy.place != RAM and copy is not besides
                for part in copy.parts
            )

    def keys_in_ram(self) -> frozenset[str]:
        """Return the parts that copies in RAM hold."""
        with self.lock:
            here = (copy for copy in self.copies() if copy.place == RAM)
            return frozenset(part.key for copy in here for part in copy.parts)

    def inventory(self) -> Inventory:
        with self.lock:
            records = self.ordered()
            by_tier: dict[str, list[str]] = {"vram": [], "ram": [], "disk": [], "cold": []}
            for record in records:
                by_tier[record.tier].append(record.model_id)
            sizes = {record.model_id: record.size_bytes for record in records}
            downloading = [x.model_id for x in records if x.progress is not None]
        warm = (*by_tier["ram"], *by_tier["disk"])
        return Inventory(
            vram_models=tuple(by_tier["vram"]),
            ram_models=tuple(by_tier["ram"]),
            disk_models=warm,
            downloading_models=tuple(downloading),
            hot=tuple(by_tier["vram"]),
            warm=warm,
            cold=tuple(by_tier["cold"]),
            sizes_bytes=sizes,
        )

    def ordered(self) -> list[Record]:
        """Return all records, the one last used at the end."""
        with self.lock:
            return sorted(self.records.values(), key=lambda record: record.last_used)

    def _facts(self, place: str, allocated: Callable[[str], int]) -> Facts:
        copies = self._copy_facts()
        rooms = {}
        for where in {place, RAM}:
            accounted = accounted_bytes(copies, where)
            if where == RAM:
                limit, beyond = self.limits.ram_bytes(accounted), 0
            else:
                limit = self.limits.vram_bytes(where)
                beyond = max(0, allocated(where) - accounted)
            if limit is not None:
                rooms[where] = Room(limit_bytes=limit, unaccounted_bytes=beyond)
        return Facts(copies=copies, rooms=rooms)

    def _copy_facts(self) -> tuple[Copy, ...]:
        return tuple(copy.as_fact() for copy in self.copies())
