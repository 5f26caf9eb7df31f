from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import GenericAlias
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
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.annotations import Place, annotation_of, fields_of, iter_places, node_of

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


LEAVES = st.sampled_from([int, str, Annotated[str, "marked"], list[Annotated[str, "marked"]]])


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """Draw record types that hold each other any way, recursively too, and return one of them."""
    count = draw(st.integers(1, 4))
    records = [msgspec.defstruct(f"R{i}", [("a", Any), ("b", Any)]) for i in range(count)]
    for record in records:
        for name in ("a", "b"):
            held: Any = draw(st.sampled_from(records) | LEAVES)
            ways = [held, held | None, GenericAlias(list, (held,))]
            record.__annotations__[name] = draw(st.sampled_from(ways))
    return records[0]


def is_marked(place: Place) -> bool:
    return "marked" in place.metadata


@given(graphs())
def test_wanted_places_are_those_of_all_places(record: Any) -> None:
    wanted = [(p.path, p.type) for p in iter_places(record) if is_marked(p)]
    assert [(p.path, p.type) for p in iter_places(record, is_marked)] == wanted


class Grown(msgspec.Struct, Generic[T]):
    """Has a form more with each step into it."""

    text: Annotated[str, "marked"]
    inner: Grown[list[T]] | None


@pytest.mark.parametrize("marked", [False, True])
def test_types_that_are_shared_many_ways_are_read_in_linear_time(marked: bool) -> None:
    leaf: Any = Annotated[str, "marked"] if marked else str
    record: Any = msgspec.defstruct("R0", [("a", leaf)])
    for depth in range(1, 41):
        record = msgspec.defstruct(f"R{depth}", [("a", record), ("b", record)])
    asked = 0

    def is_wanted(place: Place) -> bool:
        nonlocal asked
        asked += 1
        return is_marked(place)

    found = list(islice(iter_places(record, is_wanted), 3))
    assert len(found) == (3 if marked else 0)
    assert asked < 400


def test_a_generic_that_grows_with_each_step_is_read() -> None:
    assert [p.path for p in iter_places(Grown[int], is_marked)] == ["text"]
    assert list(iter_places(Grown[int], lambda place: place.type is bytes)) == []
