"""Reads and checks the body of a finalize, as far as it can be without the hub's records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.catalog import Facts
from gen_worker.models.hub.local.names import check_repo, check_tag
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import FinalizeBody, FlavorBody
from gen_worker.models.hub.wire import DEFAULT_FLAVOR, RELATIONSHIPS
from gen_worker.models.snapshot import parse_blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "decode_finalize",
    "facts_of",
    "invalid",
    "is_usable",
    "label_of",
    "labels_of",
    "problems_of",
]

_MAX_FLAVORS = 64
_LABEL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-:+")
_MAX_LABEL_CHARS = 63
_QUANTIZATION_FACTS = ("quantization_method", "quantization_library")
_WORKER_LIBRARIES = frozenset({"flashpack", "bitsandbytes", "torchao", "transformer_engine"})


def decode_finalize(request: bytes) -> FinalizeBody:
    try:
        return msgspec.json.decode(request, type=FinalizeBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "invalid_body", f"the body is no finalize request: {error}") from error


def is_usable(entry: Any, usable: Callable[[str], bool]) -> bool:
    try:
        return usable(parse_blake3(entry.digest or entry.blake3))
    except ValidationError:
        return True  # what is wrong with it is told with all the other mistakes


def label_of(text: str) -> str:
    return text.strip().lower()


def labels_of(flavor: FlavorBody) -> tuple[str, ...]:
    """Return every label of a checkpoint, its primary one first."""
    told = [label_of(name) for name in (flavor.flavor, *flavor.flavors) if name.strip()]
    labels = tuple(dict.fromkeys(told)) or (DEFAULT_FLAVOR,)
    for label in labels:
        is_short = len(label) <= _MAX_LABEL_CHARS and label[0].isalnum()
        if not is_short or not _LABEL_CHARS.issuperset(label):
            raise ValidationError(f"{label!r:.120} is no name of a flavor")
    return labels


def facts_of(flavor: FlavorBody, labels: tuple[str, ...]) -> Facts:
    return Facts(
        flavors=labels,
        display_label=flavor.display_label,
        dtype=flavor.dtype.lower(),
        file_layout=flavor.file_layout.lower(),
        file_type=flavor.file_type.lower(),
        libraries=tuple(sorted(_libraries(flavor))),
        metadata=flavor.all_metadata,
        lineage=tuple(msgspec.to_builtins(edge) for edge in flavor.lineage),
    )


def _libraries(flavor: FlavorBody) -> set[str]:
    told = (edge.metadata.get("quantization_library") for edge in flavor.lineage)
    return {name for name in told if isinstance(name, str)} & _WORKER_LIBRARIES


def problems_of(body: FinalizeBody) -> Iterator[str]:
    count = len(body.checkpoint_flavors)
    if not 1 <= count <= _MAX_FLAVORS:
        yield f"{count} checkpoint_flavors: 1 to {_MAX_FLAVORS} are taken"
    for group in body.all_tags:
        try:
            check_tag(group.tag)
        except Refusal as refusal:
            yield str(refusal)
    seen: set[str] = set()
    for index, flavor in enumerate(body.checkpoint_flavors):
        here = f"checkpoint_flavors[{index}]"
        labels = {label_of(name) for name in (flavor.flavor, *flavor.flavors)} - {""}
        labels = labels or {DEFAULT_FLAVOR}
        if seen & labels:
            yield f"{here}: another one has the flavor {min(seen & labels)!r:.80}"
        seen |= labels
        yield from (f"{here}: {problem}" for problem in _problems_of_lineage(flavor))
        hidden = [key for key in flavor.all_metadata if key.startswith("_")]
        if hidden:
            yield f"{here}: metadata keys must not begin with '_': {hidden!r:.120}"


def _problems_of_lineage(flavor: FlavorBody) -> Iterator[str]:
    for edge in flavor.lineage:
        try:
            check_repo(*edge.parent_repo.partition("/")[::2])
        except Refusal as refusal:
            yield f"lineage: {refusal}"
        if edge.relationship_kind not in RELATIONSHIPS:
            known = ", ".join(RELATIONSHIPS)
            yield f"lineage: {edge.relationship_kind!r:.80} is no relationship: {known}"
        elif edge.relationship_kind == "quantization":
            missing = [name for name in _QUANTIZATION_FACTS if not edge.metadata.get(name)]
            if missing:
                yield f"lineage: a quantization needs the metadata {', '.join(missing)}"


def invalid(problems: Sequence[str]) -> Refusal:
    shown = "; ".join(problems[:20])
    return Refusal(422, "invalid_manifest", shown, problems=list(problems[:100]))
