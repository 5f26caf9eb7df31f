from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest

from gen_worker.constraints import AssetLimits, Clamp
from gen_worker.schema import SchemaError, json_schema, schema_sha256
from gen_worker.types import Asset, ImageAsset

T = TypeVar("T")
Unit = Annotated[float, Clamp(0.0, 1.0)]


class Inner(msgspec.Struct):
    """Written by the author."""

    scale: Unit = 0.5


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Tree(msgspec.Struct):
    children: list[Tree] = []
    weight: Unit = 0.0


class Cat(msgspec.Struct, tag=True):
    lives: Annotated[int, Clamp(1, 9)] = 9


class Dog(msgspec.Struct, tag=True):
    age: int = 0


class Row(msgspec.Struct, array_like=True, tag="row"):
    name: str
    steps: Annotated[int, Clamp(1, 50)] = 1


class Pair(NamedTuple):
    left: Unit
    right: int = 0


class Options(TypedDict):
    steps: Annotated[int, Clamp(1, 50)]


@dataclass
class Plain:
    steps: Annotated[int, Clamp(1, 50)]


class Color(enum.Enum):
    RED = "red"


class Payload(msgspec.Struct, rename="camel"):
    """What the author says about it."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, description="text")]
    num_steps: Annotated[int, Clamp(0.5, 50.5)] = 20
    maybe_scale: Annotated[float | None, Clamp(0, 1)] = None
    either: Annotated[int, Clamp(1, 5)] | str = 1
    inner: Inner | None = None
    many: list[Unit] = []
    named: dict[str, Unit] = {}
    pair: tuple[str, Unit] = ("", 0.0)
    maybe_many: list[Unit] | None = None
    pages: Page[Unit] | None = None
    numbers: Page[int] | None = None
    pet: Cat | Dog | None = None
    row: Row | None = None
    couple: Pair | None = None
    options: Options | None = None
    plain: Plain | None = None
    color: Color = Color.RED
    mode: Literal["a", "b"] = "a"
    image: Annotated[
        ImageAsset | None, AssetLimits(max_bytes=10, allowed_mime_types=("image/png",))
    ] = None
    guided: Annotated[int, Clamp(1, 50), msgspec.Meta(ge=2)] = 2
    open_ended: Annotated[float, Clamp(0, float("inf"))] = 1.0


SCHEMA = json_schema(Payload)
BOUNDS = {"minimum": 0.0, "maximum": 1.0}
STEPS = {"minimum": 1, "maximum": 50}


def bounds_at(*path: str | int) -> dict[str, float]:
    part: Any = SCHEMA
    for step in path:
        part = part[step]
    return {name: part[name] for name in ("minimum", "maximum") if name in part}


def test_the_top_level_type_is_written_out_and_nested_ones_are_not() -> None:
    assert SCHEMA["type"] == "object"
    assert SCHEMA["description"] == "What the author says about it."
    assert SCHEMA["required"] == ["prompt"]
    assert "Payload" not in SCHEMA["$defs"]
    assert SCHEMA["properties"]["inner"]["anyOf"][0] == {"$ref": "#/$defs/Inner"}
    assert SCHEMA["$defs"]["Inner"]["description"] == "Written by the author."


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("properties", "numSteps"), {"minimum": 1, "maximum": 50}),
        (("properties", "maybeScale", "anyOf", 0), {"minimum": 0, "maximum": 1}),
        (("properties", "either", "anyOf", 0), {"minimum": 1, "maximum": 5}),
        (("properties", "either", "anyOf", 1), {}),
        (("$defs", "Inner", "properties", "scale"), BOUNDS),
        (("properties", "many", "items"), BOUNDS),
        (("properties", "named", "additionalProperties"), BOUNDS),
        (("properties", "pair", "prefixItems", 1), BOUNDS),
        (("properties", "pair", "prefixItems", 0), {}),
        (("properties", "maybeMany", "anyOf", 0, "items"), BOUNDS),
        (("$defs", "Page_int_", "properties", "items", "items"), {}),
        (("$defs", "Cat", "properties", "lives"), {"minimum": 1, "maximum": 9}),
        (("$defs", "Row", "prefixItems", 2), STEPS),
        (("$defs", "Pair", "prefixItems", 0), BOUNDS),
        (("$defs", "Options", "properties", "steps"), STEPS),
        (("$defs", "Plain", "properties", "steps"), STEPS),
        (("properties", "guided"), {"minimum": 2, "maximum": 50}),
        (("properties", "openEnded"), {"minimum": 0}),
    ],
)
def test_clamps_are_minimum_and_maximum_wherever_they_are(
    path: tuple[str | int, ...], expected: dict[str, float]
) -> None:
    assert bounds_at(*path) == expected


def test_type_arguments_bring_their_clamps() -> None:
    name = SCHEMA["properties"]["pages"]["anyOf"][0]["$ref"].removeprefix("#/$defs/")
    assert bounds_at("$defs", name, "properties", "items", "items") == BOUNDS


def test_limits_of_files_are_shown_where_they_are_set() -> None:
    assert SCHEMA["properties"]["image"]["anyOf"][0] == {
        "$ref": "#/$defs/ImageAsset",
        "x-limits": {"max_bytes": 10, "allowed_mime_types": ["image/png"]},
    }


def test_texts_of_library_types_are_left_out() -> None:
    asset = SCHEMA["$defs"]["ImageAsset"]
    assert "description" not in asset
    assert "local_path" in asset["properties"]


def test_a_recursive_type_is_written_out_and_defined() -> None:
    schema = json_schema(Tree)
    assert schema["properties"]["weight"] == {"type": "number", "default": 0.0, **BOUNDS}
    definition = dict(schema["$defs"]["Tree"])
    assert definition == {key: value for key, value in schema.items() if key != "$defs"}


def test_a_type_that_is_shared_a_billion_ways_is_looked_at_once() -> None:
    shared: Any = msgspec.defstruct("Level0", [("image", Asset)])
    for level in range(1, 31):
        shared = msgspec.defstruct(f"Level{level}", [("left", shared), ("right", shared)])
    assert len(json_schema(shared)["$defs"]) == 31


def test_a_type_without_nested_ones_has_no_definitions() -> None:
    assert "$defs" not in json_schema(Inner)


def test_types_that_are_no_records_have_schemas_too() -> None:
    assert json_schema(list[Unit]) == {"type": "array", "items": {"type": "number", **BOUNDS}}
    assert json_schema(Inner | None)["anyOf"][0] == {"$ref": "#/$defs/Inner"}
    assert json_schema(Any) == {}


def test_generating_twice_gives_the_same_and_shares_nothing() -> None:
    first = json_schema(Payload)
    first["properties"].clear()
    assert json_schema(Payload) == SCHEMA


def test_the_hash_is_of_compact_json_with_sorted_keys() -> None:
    import hashlib

    text = json.dumps(SCHEMA, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert schema_sha256(SCHEMA) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert schema_sha256({"b": 1, "a": "ü"}) == schema_sha256({"a": "ü", "b": 1})
    assert schema_sha256({"a": 1}) != schema_sha256({"a": 2})


class Unsupported(msgspec.Struct):
    fine: int
    number: complex
    deep: dict[str, list[range]] = {}


class Holder(msgspec.Struct):
    held: Unsupported | None = None


class Untagged(msgspec.Struct):
    pet: Inner | Tree


class HoldsUntagged(msgspec.Struct):
    many: list[Untagged]


class Unknown(msgspec.Struct):
    value: NoSuchType  # type: ignore[name-defined]  # noqa: F821  # the point of the test


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Unsupported, ["Unsupported.number is complex", "Unsupported.deep.*[] is range"]),
        (Holder, ["Holder.held.number is complex"]),
        (Untagged, ["Untagged.pet is", "give the Structs a tag"]),
        (HoldsUntagged, ["Untagged.pet is"]),
        (Unknown, ["Unknown", "NoSuchType"]),
        (complex, ["complex"]),
    ],
)
def test_types_that_cannot_travel_are_refused_by_field(annotation: Any, named: list[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        json_schema(annotation)
    for text in named:
        assert text in str(caught.value)
