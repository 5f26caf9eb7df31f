"""The models of one device: what it was given, corrected by what its worker reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.snapshots import Resident

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

__all__ = ["Holdings"]


class Holdings:
    """One GPU of a worker, or its processor."""

    __slots__ = ("free_bytes", "index", "models", "total_bytes")

    def __init__(self, index: int, total_bytes: int = 0) -> None:
        self.index = index
        self.total_bytes = total_bytes
        self.free_bytes: int | None = None
        """None when it is not known."""
        self.models: dict[str, Resident] = {}

    def use(
        self, refs: Iterable[str], now: float, ready_at: float, sizes: Mapping[str, int]
    ) -> None:
        """Note that a job was given that needs models: those that are missing are loaded."""
        for ref in refs:
            known = self.models.get(ref)
            if known is not None:
                self.models[ref] = known._replace(used_at=now)
                continue
            size_bytes = sizes.get(ref, 0)
            self.models[ref] = Resident(ready_at, now, size_bytes)
            if self.free_bytes is not None:
                self.free_bytes = max(0, self.free_bytes - size_bytes)

    def unload(self, refs: Iterable[str]) -> None:
        """Note that models make room."""
        for ref in refs:
            left = self.models.pop(ref, None)
            if left is not None and self.free_bytes is not None:
                self.free_bytes += left.size_bytes

    def arrived(self, ref: str, now: float, size_bytes: int = 0) -> None:
        """Note that a model is there."""
        known = self.models.get(ref)
        if known is None:
            self.models[ref] = Resident(0.0, 0.0, size_bytes)
        elif known.ready_at > now or size_bytes > known.size_bytes:
            self.models[ref] = Resident(0.0, known.used_at, size_bytes or known.size_bytes)

    def correct(
        self,
        reported: Set[str],
        used: Set[str],
        now: float,
        sizes: Mapping[str, int],
        free_bytes: int | None,
    ) -> None:
        """Take the worker's word.

        Args:
            reported: What it says is loaded.
            used: What its jobs need, and may be loading.
            now: The time.
            sizes: Of models, as far as they are known.
            free_bytes: As it says.
        """
        for ref in reported:
            self.arrived(ref, now, sizes.get(ref, 0))
        for ref in [ref for ref in self.models if ref not in reported and ref not in used]:
            del self.models[ref]
        if free_bytes is not None:
            coming = sum(one.size_bytes for ref, one in self.models.items() if ref not in reported)
            self.free_bytes = max(0, free_bytes - coming)
