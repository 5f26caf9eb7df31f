"""Sizes and ages as people read them."""

from __future__ import annotations

__all__ = ["age_text", "size_text"]

_AGES = (("d", 86_400), ("h", 3_600), ("min", 60))


def size_text(count: float) -> str:
    """Return a number of bytes with a unit: `1.5 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def age_text(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    for unit, size in _AGES:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "now"
