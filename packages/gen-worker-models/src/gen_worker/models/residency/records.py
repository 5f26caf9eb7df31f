"""What the residency keeps of each model: one book, changed under one lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from gen_worker.errors import RetryableError
from gen_worker.models.residency.values import RAM, Copy, Part

if TYPE_CHECKING:
    from gen_worker.models.residency.residency import Residency

__all__ = ["Inventory", "Lease", "Loaded", "ModelInUseError", "Record", "Tier", "TierChange"]

Tier = Literal["vram", "ram", "disk", "cold"]


class ModelInUseError(RetryableError):
    """A model cannot be unloaded while a request uses it."""

    code = "model_in_use"

    def __init__(self, model_id: str, leases: int) -> None:
        super().__init__(
            f"model {model_id!r} is in use by {leases} request(s): unload it when they have ended"
        )
        self.model_id = model_id
        self.leases = leases


class TierChange(NamedTuple):
    """A model went from one tier to another."""

    model_id: str
    before: Tier
    now: Tier


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Which models are where, as a worker reports it; names in the order of last use."""

    vram_models: tuple[str, ...]
    ram_models: tuple[str, ...]
    disk_models: tuple[str, ...]
    """Those in RAM are listed here, too."""
    downloading_models: tuple[str, ...]
    hot: tuple[str, ...]
    """In VRAM: instant."""
    warm: tuple[str, ...]
    """In RAM or on disk: below a second, or seconds."""
    cold: tuple[str, ...]
    """Known, but to be fetched first: minutes."""
    sizes_bytes: dict[str, int]


class Loaded:
    """One copy of a model in memory."""

    __slots__ = (
        "held_bytes",
        "is_movable",
        "is_moving",
        "last_used",
        "leases",
        "number",
        "parts",
        "place",
        "record",
        "value",
    )

    def __init__(self, record: Record, number: int, place: str) -> None:
        self.record = record
        self.number = number
        self.place = place
        self.value: Any = None
        self.parts: tuple[Part, ...] = ()
        self.held_bytes: int | None = None
        """Of a pipeline that its offload hooks move: what it keeps of its GPU."""
        self.is_movable = True
        self.leases = 0
        self.last_used = number
        self.is_moving = False

    def as_fact(self) -> Copy:
        return Copy(
            number=self.number,
            model_id=self.record.model_id,
            place=self.place,
            parts=self.parts,
            held_bytes=self.held_bytes,
            is_movable=self.is_movable,
            # What somebody moves right now is as good as leased.
            leases=self.leases + self.record.references + self.is_moving,
            is_pinned=self.record.is_pinned,
            last_used=self.last_used,
        )


class Record:
    """One model, loaded or not."""

    __slots__ = (
        "copies",
        "is_pinned",
        "last_used",
        "model_id",
        "path",
        "progress",
        "references",
        "size_bytes",
    )

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.copies: dict[str, Loaded] = {}
        """By place."""
        self.path = ""
        """Of its files; empty when they are not here."""
        self.size_bytes = 0
        """Last known size."""
        self.is_pinned = False
        self.progress: float | None = None
        """Of a download under way, 0 to 1."""
        self.last_used = 0
        self.references = 0
        """Users who hold the model by its name, whichever copy."""

    @property
    def tier(self) -> Tier:
        if any(place != RAM for place in self.copies):
            return "vram"
        if self.copies:
            return "ram"
        return "disk" if self.path else "cold"

    @property
    def leases(self) -> int:
        return self.references + sum(copy.leases for copy in self.copies.values())


class Lease:
    """The right to use a loaded model; until it is given back the model stays where it is."""

    __slots__ = ("_copy", "_residency", "value")

    def __init__(self, residency: Residency, copy: Loaded) -> None:
        self._residency = residency
        self._copy: Loaded | None = copy
        self.value: Any = copy.value

    @property
    def place(self) -> str:
        return self._copy.place if self._copy else ""

    def release(self) -> None:
        """Give the model back. A second time does nothing."""
        copy, self._copy, self.value = self._copy, None, None
        if copy is not None:
            self._residency.give_back(copy)

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *exception: object) -> None:
        self.release()
