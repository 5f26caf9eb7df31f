"""Whose files are whose, as the store names owners."""

from __future__ import annotations

__all__ = ["NOBODY", "owner_in_store"]

NOBODY = "local"
"""Of files that belong to no owner."""


def owner_in_store(owner: str | None) -> str:
    """Return the name that an owner's files are kept under."""
    return (owner or NOBODY).lower()
