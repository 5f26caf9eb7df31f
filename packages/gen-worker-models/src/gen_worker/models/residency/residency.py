"""Keeps models in VRAM, RAM and on disk: one book for every caller, one mutex for each GPU."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.models.residency.book import CANCEL_POLL_S, Book
from gen_worker.models.residency.budgets import Budgets, Limits
from gen_worker.models.residency.movers import Movers, TorchMovers
from gen_worker.models.residency.moves import Moves
from gen_worker.models.residency.records import Inventory, Lease, Record, Tier, TierChange
from gen_worker.models.residency.values import RAM, Fit, Free, Trim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.residency.moves import Load, Put
    from gen_worker.models.residency.records import Loaded

__all__ = ["Residency"]


class Residency:
    """Which models are loaded where, who uses them, and what leaves when memory is short.

    Thread-safe and blocking. Everything that moves models onto a GPU or off it holds that GPU's
    mutex; a model that is there already is leased without it. Sizes are measured.
    """

    def __init__(
        self,
        budgets: Budgets | None = None,
        *,
        movers: Movers | None = None,
        limits: Limits | None = None,
        observe: Callable[[TierChange], None] | None = None,
    ) -> None:
        """Start with no models.

        Args:
            budgets: What the operator allows.
            movers: How objects are moved and measured; by default as torch does it.
            limits: In place of `budgets`: where limits in bytes come from.
            observe: Told of each model that came to another tier, in the thread that moved it; it
                may read the residency. What it raises is logged.
        """
        self.limits = limits or Limits(budgets or Budgets())
        self._movers: Movers = movers or TorchMovers()
        self._book = Book(self.limits, observe)
        self._moves = Moves(self._book, self._movers)
        self._mutexes: dict[str, threading.RLock] = {}

    # Using models.

    def lease(self, model_id: str, place: str) -> Lease | None:
        """Return a lease when the model is loaded at this place; waits for no move."""
        book = self._book
        with book.lock:
            record = book.records.get(model_id)
            copy = record.copies.get(place) if record is not None else None
            if copy is None or copy.is_moving:
                return None
            book.take(copy)
            return Lease(self, copy)

    def use(
        self,
        model_id: str,
        place: str,
        load: Load,
        *,
        put: Put | None = None,
        size_bytes: int = 0,
        token: CancelToken | None = None,
    ) -> Lease:
        """Return a lease of the model at a place, loaded and moved as needed.

        Blocks while another thread moves models at that place, so that a model is loaded once.

        Args:
            model_id: Which model.
            place: `cpu`, or a GPU such as `cuda:0`.
            load: Returns the object, in RAM or on the GPU already.
            put: Brings an object to the GPU, in place of `.to()`; it may install offload hooks.
            size_bytes: What is known of the size before it is loaded, such as its files' bytes.
            token: Ends the waiting for other threads; what `load` does is its own to end.

        Raises:
            CanceledError: The token was tripped.
            Exception: What `load` or `put` raised. The model is then in RAM, or not loaded.
        """
        ready = self.lease(model_id, place)
        if ready is not None:
            return ready
        with self._holding(place, token):
            while True:
                # A copy in RAM may be on its way to or from a GPU, by a thread with its mutex.
                self._book.wait_while_moving(model_id, place, token)
                ready = self.lease(model_id, place)
                if ready is not None:
                    return ready
                copy = self._moves.bring(
                    model_id, place, load, put or self._movers.to_gpu, size_bytes
                )
                if copy is not None:
                    return Lease(self, copy)

    def add(
        self,
        model_id: str,
        value: Any,
        place: str,
        *,
        size_bytes: int | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """Record an object that is at a place already; others leave for it as needed.

        Args:
            model_id: Which model. An object recorded for it at this place is replaced.
            value: The object.
            place: Where it is.
            size_bytes: Its size; None measures it.
            is_pinned: True keeps it loaded; None leaves that as it was.
        """
        parts = self._moves.sized(model_id, value, size_bytes)
        with self.mutex(place):
            with self._book.lock:
                # Whatever was there under this name takes no room beside its successor.
                old = self._book.record(model_id).copies.get(place)
                if old is not None:
                    old.parts, old.held_bytes, old.is_moving = (), None, True
            self._moves.make_way(Fit("", place, parts), model_id)
            with self._book.changing(model_id) as record:
                record.is_pinned = record.is_pinned if is_pinned is None else is_pinned
                waiting = record.copies.get(RAM)
                if place != RAM and waiting is not None and not waiting.leases:
                    del record.copies[RAM]
                self._moves.register(record, value, place, parts)

    # Moving models.

    def demote(self, model_id: str, place: str = "") -> bool:
        """Move a model from its GPUs, or from one, to RAM; tell whether one was moved.

        Raises:
            ModelInUseError: A request uses it.
        """
        moved = False
        for copy in self._book.idle_copies(model_id):
            if copy.place != RAM and place in ("", copy.place):
                with self.mutex(copy.place):
                    moved |= self._moves.mark(copy) and self._moves.lower(copy)
                    self._movers.flush()
                    self._moves.make_way(Free(RAM, 0))
        return moved

    def free(self, place: str, size_bytes: int) -> int:
        """Make idle models leave until so many bytes are free; return how many are missing."""
        with self.mutex(place):
            return self._moves.make_way(Free(place, size_bytes))

    def trim(self, place: str, keep: int) -> int:
        """Keep at most `keep` models at a place and give the others' objects up.

        Returns:
            How many have left.
        """
        with self.mutex(place):
            before = self._count(place)
            self._moves.make_way(Trim(place, keep))
            return before - self._count(place)

    def unload(self, model_id: str) -> bool:
        """Give a model's objects up, its files stay; tell whether there were any.

        Raises:
            ModelInUseError: A request uses it.
        """
        removed = False
        # Again when one was taken meanwhile: then it is in use, or on its way elsewhere.
        while copies := self._book.idle_copies(model_id):
            for copy in copies:
                with self.mutex(copy.place):
                    if self._moves.mark(copy):
                        self._moves.remove(copy)
                        removed = True
                    self._movers.flush()
        return removed

    def mutex(self, place: str) -> threading.RLock:
        """Return the lock that everything holds which moves models at this place."""
        with self._book.lock:
            return self._mutexes.setdefault(place, threading.RLock())

    def refresh(self, model_id: str) -> None:
        """Measure a model anew whose pipeline the low-VRAM ladder has changed.

        One that the ladder could not bring back to its GPU is in RAM from now on.
        """
        with self._book.changing(model_id) as record:
            for copy in list(record.copies.values()):
                copy.held_bytes = self._moves.held_bytes(copy.value, copy.place)
                is_there = copy.held_bytes is not None or self._movers.is_at(copy.value, copy.place)
                if copy.place != RAM and not is_there:
                    del record.copies[copy.place]
                    copy.place = RAM
                    record.copies.setdefault(RAM, copy)

    # What is known of models that are not loaded.

    def know(self, model_id: str, *, path: str = "", size_bytes: int = 0) -> None:
        """Record that a model may be asked for, and where its files are."""
        with self._book.changing(model_id) as record:
            record.path = path or record.path
            if size_bytes and not record.copies:
                record.size_bytes = size_bytes
            record.progress = None if path else record.progress

    def forget(self, model_id: str) -> bool:
        """Unload a model and know nothing of it any more; tell whether it was known.

        Raises:
            ModelInUseError: A request uses it.
        """
        if self.find(model_id) is None:
            return False
        self.unload(model_id)
        with self._book.changing(model_id) as record:
            record.path = ""
            del self._book.records[model_id]
        return True

    def downloading(self, model_id: str, progress: float | None) -> None:
        """Record how far a download is, 0 to 1; None: it is over."""
        with self._book.changing(model_id) as record:
            record.progress = None if progress is None else min(1.0, max(0.0, progress))

    def hold(self, model_id: str, count: int = 1) -> int:
        """Keep a model where it is by its name, or stop with -1; return how many do so."""
        with self._book.lock:
            record = self._book.record(model_id)
            record.references = max(0, record.references + count)
            return record.references

    def pin(self, model_id: str, is_pinned: bool = True) -> None:
        """Keep a model loaded whatever else is asked for, or stop doing so."""
        with self._book.lock:
            self._book.record(model_id).is_pinned = is_pinned

    # Reading the book.

    def tier(self, model_id: str) -> Tier:
        record = self.find(model_id)
        return record.tier if record else "cold"

    def find(self, model_id: str) -> Record | None:
        """Return what is kept of a model; only to be read."""
        with self._book.lock:
            return self._book.records.get(model_id)

    def records(self) -> list[Record]:
        """Return everything known, last used last; only to be read."""
        return self._book.ordered()

    def value(self, model_id: str, place: str = "") -> Any:
        """Return a loaded object, from a GPU rather than from RAM; None when it is not loaded."""
        with self._book.lock:
            record = self._book.records.get(model_id)
            copies = [x for x in record.copies.values() if place in ("", x.place)] if record else []
            if not copies:
                return None
            copy = min(copies, key=lambda copy: copy.place == RAM)
            self._book.touch(copy)
            return copy.value

    @property
    def over_commits(self) -> int:
        """How often a model was loaded although it does not fit the budget."""
        return self._moves.over_commits

    def used_bytes(self, place: str) -> int:
        """Return what loaded models take of a place, shared parts counted once."""
        return self._book.used_bytes(place)

    def limit_bytes(self, place: str) -> int | None:
        """Return what models may take of a place; None when nobody knows."""
        if place == RAM:
            return self.limits.ram_bytes(self.used_bytes(RAM))
        return self.limits.vram_bytes(place)

    def gpus(self) -> tuple[str, ...]:
        """Return the GPUs that have models on them."""
        with self._book.lock:
            return tuple(sorted({copy.place for copy in self._book.copies()} - {RAM}))

    def inventory(self) -> Inventory:
        """Return which models are where, for reports."""
        return self._book.inventory()

    def give_back(self, copy: Loaded) -> None:
        """Take a lease back; called by the lease itself."""
        with self._book.lock:
            copy.leases = max(0, copy.leases - 1)

    @contextmanager
    def _holding(self, place: str, token: CancelToken | None) -> Iterator[None]:
        """Hold a place's mutex for the block; a cancel ends the waiting within 50 ms."""
        mutex = self.mutex(place)
        if token is None:
            mutex.acquire()
        else:
            token.raise_if_canceled()
            while not mutex.acquire(timeout=CANCEL_POLL_S):
                token.raise_if_canceled()
        try:
            yield
        finally:
            mutex.release()

    def _count(self, place: str) -> int:
        with self._book.lock:
            return sum(copy.place == place for copy in self._book.copies())
