"""What goes along with a model even where one file has all of it: licences and descriptions."""

from __future__ import annotations

import os

from gen_worker.conversion.side_files import side_files

__all__ = ["notices_in"]

_BEGINNINGS = ("license", "licence", "notice", "readme", "usage_policy")


def notices_in(directory: str) -> list[str]:
    """Return the names of such files, sorted; none of a model that is one file."""
    if os.path.isfile(directory):
        return []
    return [name for name in side_files(directory) if name.lower().startswith(_BEGINNINGS)]
