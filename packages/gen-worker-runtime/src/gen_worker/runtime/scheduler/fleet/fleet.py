"""All workers, and the pools they are in."""

from __future__ import annotations

__all__ = ["Fleet"]


class Fleet:
    """The workers of one scheduler. On its loop."""
