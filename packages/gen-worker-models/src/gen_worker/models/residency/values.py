"""What the planner reads and answers: plain values, sizes in bytes.

A *place* is `cpu`, which means RAM, or one GPU, such as `cuda:0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

__all__ = [
    "GIB",
    "RAM",
    "Copy",
    "Facts",
    "Fit",
    "Free",
    "Move",
    "Part",
    "Plan",
    "Room",
    "Trim",
    "Wish",
]

GIB = 1024**3
RAM = "cpu"


class Part(NamedTuple):
    """A component's weights. Two models that hold the same part hold the same memory."""

    key: str
    size_bytes: int


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One loaded model. A model may have a copy on each GPU."""

    number: int
    """Unique among all copies."""
    model_id: str
    place: str
    parts: tuple[Part, ...]
    held_bytes: int | None = None
    """Of a pipeline that its offload hooks move: what it keeps of its GPU. Its parts are in RAM."""
    is_movable: bool = True
    """False: it can only be given up."""
    leases: int = 0
    is_pinned: bool = False
    last_used: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.leases and not self.is_pinned


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a place models may take."""

    limit_bytes: int
    unaccounted_bytes: int = 0
    """What the allocator has given out there beyond the copies' own sizes."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision rests on."""

    copies: tuple[Copy, ...]
    rooms: Mapping[str, Room]
    """A place that is missing has no limit."""


class Fit(NamedTuple):
    """Wish: a model with these parts is at this place."""

    model_id: str
    place: str
    parts: tuple[Part, ...]
    stays: frozenset[int] = frozenset()
    """Numbers of copies that cannot be moved now, whatever their state says."""


class Free(NamedTuple):
    """Wish: so many bytes of a place are free for models."""

    place: str
    size_bytes: int
    stays: frozenset[int] = frozenset()


class Trim(NamedTuple):
    """Wish: at most so many copies are at a place; the others go to disk."""

    place: str
    keep: int


Wish = Fit | Free | Trim


class Move(NamedTuple):
    """One step of a plan."""

    number: int
    """The copy; 0 for one that is to be loaded."""
    place: str
    """Where it goes; empty: its memory is given up."""


class Plan(NamedTuple):
    """What to do, in this order."""

    moves: tuple[Move, ...] = ()
    short_bytes: int = 0
    """How far the place stays over its limit after all moves: what an over-commit would be."""
