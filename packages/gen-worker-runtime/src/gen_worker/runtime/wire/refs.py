"""Maps whose keys are refs, as orchestrators spell them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.models.refs import DEFAULT_TAG, RefError, TensorhubRef, parse_ref, wire_index

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ref_index"]

T = TypeVar("T")


def ref_index(entries: Mapping[str, T]) -> dict[str, T]:
    """Make a map from the wire readable by canonical text and by the spellings of its tags.

    An entry keeps its given key. It also answers for its canonical text; one for `prod`, `latest`
    or no tag answers for the others; one that is pinned by a digest answers for both tags of its
    repository and flavor. An entry of its own always comes before such an alias, a tag's before a
    digest's, and of two digests the first.
    """
    index = wire_index(entries)
    for given, value in entries.items():
        for alias in _aliases_of_digest(given):
            index.setdefault(alias, value)
    return index


def _aliases_of_digest(given: str) -> list[str]:
    try:
        ref = parse_ref(given)
    except RefError:
        return []
    if not isinstance(ref, TensorhubRef) or not ref.digest:
        return []
    return [
        str(msgspec.structs.replace(ref, digest="", tag=tag)) for tag in (DEFAULT_TAG, "latest")
    ]
