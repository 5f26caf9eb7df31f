"""Markers that tell the platform what a payload field means and what an output will be.

Discovery writes what they say to the lock: `moderation_of` the payload, `expected_outputs_of` the
output.
"""

from __future__ import annotations

import enum
import math
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from gen_worker.annotations import display, fields_of, iter_places, node_of
from gen_worker.types import Asset, MediaAsset, StoredFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.annotations import Node, Place

__all__ = [
    "ExpectedOutput",
    "ExpectedOutputs",
    "Moderation",
    "NegativePrompt",
    "PositivePrompt",
    "PromptRole",
    "StringEnum",
    "expected_outputs_of",
    "moderation_of",
]


class StringEnum(enum.StrEnum):
    """Base of enums whose members are their own JSON text."""


class PromptRole(msgspec.Struct, frozen=True):
    """Marks a text field as a prompt, for moderation: `Annotated[str, PromptRole("positive")]`."""

    role: Literal["positive", "negative"]

    def __post_init__(self) -> None:
        if self.role not in ("positive", "negative"):
            raise ValueError(f'PromptRole must be "positive" or "negative", not {self.role!r}')


PositivePrompt = Annotated[str, PromptRole("positive")]
NegativePrompt = Annotated[str, PromptRole("negative")]


class ExpectedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Announces an output field before the call runs, so that clients can lay it out.

    Every value is a literal or a payload field, written `"input.<path>"`; discovery checks both.
    Sizes are in pixels.
    """

    count: int | str = 1
    width: int | str | None = None
    height: int | str | None = None
    aspect_ratio: float | str | None = None
    """Width over height, or text such as `16:9`."""
    mime_type: str | None = None
    media_type: Literal["image", "video", "audio", "file", "other"] | None = None
    """Overrides what the field's type says."""


class Moderation(NamedTuple):
    """The parts of a payload that moderation looks at."""

    prompts: tuple[dict[str, str], ...]
    """`{"field": …, "role": "positive" | "negative"}`."""
    media: tuple[dict[str, str], ...]
    """`{"field": …, "kind": "image" | "video" | "audio" | "media"}`."""
    problems: tuple[str, ...] = ()

    def to_lock(self) -> dict[str, Any]:
        """Return the lock's table; empty parts are left out."""
        parts = {"prompts": list(self.prompts), "media": list(self.media)}
        return {name: rows for name, rows in parts.items() if rows}


def moderation_of(payload_type: Any) -> Moderation:
    """Collect the prompts and media of a payload type.

    Fields are named as in JSON: `a.b` nested, `images[]` for items, `extras.*` for mapping values.
    """
    prompts: list[dict[str, str]] = []
    media: list[dict[str, str]] = []
    problems: list[str] = []
    for place in _first(iter_places(payload_type, _is_moderated), payload_type, problems):
        kind = _media_kind(place.type)
        if kind is not None:
            media.append({"field": place.path, "kind": kind})
        for marker in place.metadata:
            if not isinstance(marker, PromptRole):
                continue
            if place.type is str:
                prompts.append({"field": place.path, "role": marker.role})
            else:
                problems.append(
                    f"{place.path}: a prompt must be str, not {display(place.type)}: "
                    "put PromptRole on the text itself"
                )
    return Moderation(tuple(prompts), tuple(media), tuple(problems))


def _is_moderated(place: Place) -> bool:
    if place.type is type(None):
        return False
    return _media_kind(place.type) is not None or _has_marker(place, PromptRole)


def _is_announced(place: Place) -> bool:
    return place.type is not type(None) and _has_marker(place, ExpectedOutput)


def _has_marker(place: Place, cls: type) -> bool:
    return any(isinstance(marker, cls) for marker in place.metadata)


_MAX_PLACES = 1000


def _first(places: Iterator[Place], owner: Any, problems: list[str]) -> list[Place]:
    """Return the places that a lock can list; paths of types shared many ways never end."""
    found = list(islice(places, _MAX_PLACES + 1))
    if len(found) > _MAX_PLACES:
        problems.append(
            f"{display(owner)} has more than {_MAX_PLACES} paths to prompts, media or announced "
            "outputs: hold fewer types that hold each other"
        )
    return found[:_MAX_PLACES]


def _media_kind(cls: Any) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, MediaAsset)):
        return None
    return cls.media_kind or "media"


class ExpectedOutputs(NamedTuple):
    """What the output type announces."""

    rows: tuple[dict[str, Any], ...]
    """`{field, type, count, width?, height?, aspect_ratio?, mime_type?}`."""
    problems: tuple[str, ...] = ()


def expected_outputs_of(output_type: Any, payload_type: Any) -> ExpectedOutputs:
    """Collect the `ExpectedOutput` markers of an output type.

    Args:
        output_type: Type of the single output, or of one streamed item.
        payload_type: Where `input.<path>` values are looked up.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    places = _first(iter_places(output_type, _is_announced), output_type, problems)
    for place in places:
        for marker in place.metadata:
            if isinstance(marker, ExpectedOutput):
                rows.append(_row(place, marker, places))
                problems.extend(_problems(place.path, marker, payload_type))
    return ExpectedOutputs(tuple(rows), tuple(problems))


def _row(place: Place, marker: ExpectedOutput, places: list[Place]) -> dict[str, Any]:
    optional = {
        name: value
        for name in ("width", "height", "aspect_ratio", "mime_type")
        if (value := getattr(marker, name)) is not None
    }
    siblings = [other.node for other in places if other.path == place.path]  # of a union
    kinds = [kind for node in siblings for kind in _output_kinds(node)]
    kind = next((kind for kind in kinds if kind != "other"), "other")
    return {
        "field": place.path,
        "type": marker.media_type or kind,
        "count": marker.count,
        **optional,
    }


def _output_kinds(node: Node) -> Iterator[str]:
    """Yield what a place holds: itself, and its items or mapping values."""
    yield _output_kind(node.type)
    ahead = [node_of(child, node.bindings) for child in node.children]
    while ahead:
        inner = ahead.pop(0)
        if inner.kind == "union":
            ahead[:0] = [node_of(member, inner.bindings) for member in inner.children]
        else:
            yield _output_kind(inner.type)


def _output_kind(cls: Any) -> str:
    if not (isinstance(cls, type) and issubclass(cls, StoredFile)):
        return "other"
    return (cls.media_kind or "file") if issubclass(cls, Asset) else "file"


def _problems(path: str, marker: ExpectedOutput, payload_type: Any) -> Iterator[str]:
    for name in ("count", "width", "height", "aspect_ratio", "mime_type"):
        value = getattr(marker, name)
        if value is None:
            continue
        if isinstance(value, str) and value.startswith("input."):
            if not _has_field(node_of(payload_type), value.split(".")[1:]):
                yield f"{path}: {name}={value!r} names no field of {display(payload_type)}"
        elif not _is_literal(name, value):
            yield f"{path}: {name} must be {_EXPECTED[name]} or 'input.<field>', not {value!r}"
    if marker.media_type not in (None, "image", "video", "audio", "file", "other"):
        yield f"{path}: media_type {marker.media_type!r} is not image, video, audio, file or other"


_EXPECTED = {
    "count": "an int above 0",
    "width": "an int above 0",
    "height": "an int above 0",
    "aspect_ratio": "a number above 0, text such as '16:9'",
    "mime_type": "text such as 'image/png'",
}


def _is_literal(name: str, value: Any) -> bool:
    if name == "mime_type":
        return isinstance(value, str) and "/" in value
    if name == "aspect_ratio" and isinstance(value, str):
        return _is_ratio(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf and (name == "aspect_ratio" or isinstance(value, int))


def _is_ratio(text: str) -> bool:
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        return False
    return len(parts) in (1, 2) and all(0 < part < math.inf for part in parts)


def _has_field(node: Node, path: list[str]) -> bool:
    """Tell whether a dotted path leads somewhere; what is not typed further is taken on trust."""
    if node.kind == "union":
        return any(_has_field(node_of(member, node.bindings), path) for member in node.children)
    if not path:
        return True
    head, rest = path[0].partition("[")[0], path[1:]
    if node.kind == "record":
        found = [field.node for field in fields_of(node) if field.encoded_name == head]
        return any(_has_field(_indexed(child, path[0]), rest) for child in found)
    if node.kind in ("items", "tuple"):
        return any(_has_field(node_of(child, node.bindings), path) for child in node.children)
    if node.kind == "mapping":
        return _has_field(node_of(node.children[0], node.bindings), rest)
    return node.type in (Any, object)


def _indexed(node: Node, step: str) -> Node:
    """Enter the items that `images[0]` or `images[]` speaks of."""
    if "[" in step and node.kind == "items":
        return node_of(node.children[0], node.bindings)
    return node
