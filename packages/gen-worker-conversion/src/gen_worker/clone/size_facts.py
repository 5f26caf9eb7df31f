"""How large a model is, in all and by component."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.models.formats.plain_files import files_below

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["compute_size_facts", "size_facts_of"]

_ROOT = "root"


def compute_size_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return `full_model_bytes largest_component_bytes components schema_version` of a model.

    Args:
        path: A directory, whose folders are the components and whose own files are `root`; or a
            file.
    """
    place = os.fspath(path)
    if os.path.isfile(place):
        return size_facts_of({os.path.basename(place): os.path.getsize(place)})
    return size_facts_of({name: os.path.getsize(real) for real, name in files_below(place)})


def size_facts_of(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Do as `compute_size_facts` with sizes by relative path."""
    components: dict[str, dict[str, int]] = {}
    for path, size in sorted(sizes.items()):
        folder = path.partition("/")[0] if "/" in path else _ROOT
        facts = components.setdefault(folder, {"total_bytes": 0, "file_count": 0})
        facts["total_bytes"] += size
        facts["file_count"] += 1
    return {
        "full_model_bytes": sum(sizes.values()),
        "largest_component_bytes": max((x["total_bytes"] for x in components.values()), default=0),
        "components": components,
        "schema_version": 1,
    }
