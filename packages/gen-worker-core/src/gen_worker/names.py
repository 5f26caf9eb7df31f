"""Names callers use: slugs of what authors wrote."""

from __future__ import annotations

import re

__all__ = ["MAX_SLUG_CHARS", "slugify_name"]

MAX_SLUG_CHARS = 128

_FOREIGN = re.compile(r"[^a-z0-9.]+")


def slugify_name(raw: str) -> str:
    """Return the routable form of an endpoint, function or stage name.

    Only `a-z`, `0-9`, `.` and `-` remain, at most 128 characters, neither beginning nor ending in
    `.` or `-`. The slug of a slug is itself. A name with nothing usable in it, such as `!!`, gives
    an empty string, which every caller must refuse.
    """
    slug = _FOREIGN.sub("-", raw.strip().lower()).strip("-.")
    return slug[:MAX_SLUG_CHARS].strip("-.")
