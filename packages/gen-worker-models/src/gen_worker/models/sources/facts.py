"""What checks of a caller's override want to know of a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.overrides import RepoFacts
from gen_worker.models.refs import TensorhubRef, parse_ref

if TYPE_CHECKING:
    from gen_worker.models.sources.values import LocalModel

__all__ = ["INDEX", "class_named_in", "local_facts"]

INDEX = "model_index.json"
_MAX_BYTES = 16_000_000


def class_named_in(index: Any) -> str:
    """Return the pipeline class that a decoded index names; empty when it names none."""
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if isinstance(name, str) else ""


def local_facts(model: LocalModel) -> RepoFacts:
    """Return what the files that are here say."""
    ref = parse_ref(model.ref, model.provider)
    tag = flavor = ""
    if isinstance(ref, TensorhubRef):
        tag, flavor = ref.tag, ref.flavor
    return RepoFacts(
        tags=frozenset(filter(None, (tag,))),
        flavors=frozenset(filter(None, (flavor,))),
        pipeline_class=class_named_in(_index_of(model)),
    )


def _index_of(model: LocalModel) -> Any:
    if INDEX not in model.files:
        return None
    try:
        with open(os.path.join(model.root, INDEX), "rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
