from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
import pytest

from gen_worker.annotations import annotation_of, fields_of, iter_places, node_of

T = TypeVar("T")
K = TypeVar("K")
Name = NewType("Name", str)


class Item(msgspec.Struct):
    size: int


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Numbers(Page[int]):
    total: int


class Swapped(Page[K], Generic[K, T]):
    other: T


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict):
    seed: int
    name: NotRequired[str]


@dataclass
class Plain:
    weight: Final[float]
    registry: ClassVar[dict[str, int]] = {}


class Everything(msgspec.Struct, rename="camel"):
    plain_text: str
    tagged: Annotated[Annotated[int, "inner"], "outer"]
    maybe: Annotated[Item | None, "optional"]
    many: Sequence[Item]
    named: Mapping[str, Item]
    pair: tuple[int, str]
    run: tuple[int, ...]
    bare: list  # type: ignore[type-arg]  # what authors write
    page: Page[Item]
    alias: Name
    old: Optional[Union[int, str]]  # noqa: UP007, UP045  # older spelling
    anything: Any


class Tree(msgspec.Struct):
    size: int
    children: list[Tree]


def paths(annotation: Any) -> dict[str, Any]:
    return {place.path: place.type for place in iter_places(annotation)}


def test_places_are_named_as_in_json_and_carry_their_type() -> None:
    assert paths(Everything) == {
        "": Everything,
        "plainText": str,
        "tagged": int,
        "maybe": type(None),  # the last member of the union
        "maybe.size": int,
        "many": list,
        "many[]": Item,
        "many[].size": int,
        "named": dict,
        "named.*": Item,
        "named.*.size": int,
        "pair": tuple,
        "pair[]": str,
        "run": tuple,
        "run[]": int,
        "bare": list,
        "bare[]": Any,
        "page": Page,
        "page.items": list,
        "page.items[]": Item,
        "page.items[].size": int,
        "alias": str,
        "old": type(None),
        "anything": Any,
    }


def test_metadata_is_given_outermost_last_and_to_every_member_of_a_union() -> None:
    found = {(p.path, p.type): p.metadata for p in iter_places(Everything) if p.metadata}
    assert found == {
        ("tagged", int): ("inner", "outer"),
        ("maybe", Item): ("optional",),
        ("maybe", type(None)): ("optional",),
    }


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Page[Item], {"items": (Item,)}),
        (Page, {"items": (T,)}),
        (Numbers, {"items": (int,), "total": ()}),
        (Swapped[str, bytes], {"items": (str,), "other": ()}),
        (Point, {"x": (), "y": ()}),
        (Options, {"seed": (), "name": ()}),
        (Plain, {"weight": ()}),
    ],
)
def test_fields_of_every_record_type_with_their_type_arguments(
    record: Any, expected: dict[str, tuple[Any, ...]]
) -> None:
    fields = fields_of(node_of(record))
    inner = {
        field.name: tuple(field.node.bindings.get(c, c) for c in field.node.children)
        for field in fields
    }
    assert inner == expected


def test_a_type_variable_means_something_else_in_each_class_of_a_hierarchy() -> None:
    assert paths(Swapped[str, bytes]) == {
        "": Swapped,
        "items": list,
        "items[]": str,
        "other": bytes,
    }


def test_an_unbound_type_variable_is_anything() -> None:
    assert paths(Page)["items[]"] is Any


def test_a_recursive_type_is_entered_once() -> None:
    assert paths(Tree) == {"": Tree, "size": int, "children": list, "children[]": Tree}


@pytest.mark.parametrize("annotation", [Item, Page[int], Swapped[str, bytes]])
def test_a_record_is_written_back_as_it_was_given(annotation: Any) -> None:
    assert annotation_of(node_of(annotation)) == annotation


def test_metadata_that_cannot_be_hashed_is_no_obstacle() -> None:
    class Payload(msgspec.Struct):
        text: Annotated[list[str], msgspec.Meta(examples=[["a"]])]

    Payload.__annotations__["text"] = Annotated[list[str], msgspec.Meta(examples=[["a"]])]
    assert paths(Payload)["text[]"] is str
