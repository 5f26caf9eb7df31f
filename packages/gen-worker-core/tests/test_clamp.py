from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gen_worker.constraints import Clamp, compile_clamps
from gen_worker.errors import ValidationError

T = TypeVar("T")
Steps = Annotated[int, Clamp(1, 50)]
Scale = Annotated[float, Clamp(0.0, 1.0)]


@pytest.mark.parametrize(
    ("clamp", "value", "expected"),
    [
        (Clamp(1, 50), 0, 1),
        (Clamp(1, 50), 51, 50),
        (Clamp(1, 50), 7, 7),
        (Clamp(1, 50), 7.5, 7.5),
        (Clamp(1, 50), 99.5, 50.0),
        (Clamp(0.5, 9.5), 0, 1),
        (Clamp(0.5, 9.5), 10, 9),
        (Clamp(0.5, 9.5), 0.0, 0.5),
        (Clamp(1, 50, cast="int"), 2.5, 3),
        (Clamp(1, 50, cast="int"), 2.4999999999, 2),
        (Clamp(0, 50, cast="int"), 0.49999999999999994, 0),
        (Clamp(-9, 9, cast="int"), -2.5, -2),
        (Clamp(-9, 9, cast="int"), -2.6, -3),
        (Clamp(1, 50, cast="int", round="truncate"), 2.9, 2),
        (Clamp(-9, 9, cast="int", round="truncate"), -2.9, -2),
        (Clamp(1, 7.6, cast="int"), 99, 7),
        (Clamp(1, 50, cast="float"), 3, 3.0),
        (Clamp(1, 50, cast="float"), 10**400, 50.0),
        (Clamp(1, 50), 10**400, 50),
        (Clamp(1, math.inf, cast="float"), 10**400, math.inf),
        (Clamp(0.5, 9.5), math.nan, 9.5),
        (Clamp(1, 50), math.inf, 50.0),
        (Clamp(1, 50), -math.inf, 50.0),
        (Clamp(1, 50), math.nan, 50.0),
        (Clamp(1, 50, cast="int"), math.nan, 50),
        (Clamp(0, math.inf), -3, 0),
        (Clamp(0, math.inf), 10**400, 10**400),
        (Clamp(-math.inf, 5), 7.0, 5.0),
    ],
)
def test_numbers_are_pulled_into_the_range(clamp: Clamp, value: float, expected: float) -> None:
    result = clamp.apply(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("value", [None, True, False, "7", b"7", [99], {"a": 99}])
def test_what_is_no_number_stays_as_it_is(value: object) -> None:
    assert Clamp(1, 5).apply(value) is value


@given(
    low=st.integers(-1000, 1000) | st.floats(-1e6, 1e6),
    high=st.integers(-1000, 1000) | st.floats(-1e6, 1e6),
    value=st.integers() | st.floats(),
    cast=st.sampled_from(["", "int", "float"]),
    rounding=st.sampled_from(["half_up", "truncate"]),
)
def test_the_result_is_in_range_and_of_the_cast_type_and_stable(
    low: float, high: float, value: float, cast: Any, rounding: str
) -> None:
    assume(low <= high)
    # A range without an int is refused with cast="int"; without a cast an int stays an int.
    assume(math.ceil(low) <= math.floor(high))
    clamp = Clamp(low, high, cast=cast, round=rounding)
    result = clamp.apply(value)
    assert low <= result <= high
    wanted = {"": type(value), "int": int, "float": float}[cast]
    assert type(result) is wanted
    assert clamp.apply(result) == result


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((5, 1), "min 5 is above max 1"),
        (("1", 5), "min must be a number"),
        ((1, None), "max must be a number"),
        ((1, True), "max must be a number"),
        ((math.nan, 1), "min must be a number"),
        ((1, 5, "str"), "cast must be"),
        ((1, 5, "int", "banker"), "round must be"),
        ((0.2, 0.8, "int"), "no int between 0.2 and 0.8"),
        ((0, math.inf, "int"), "finite"),
    ],
)
def test_a_wrong_declaration_is_refused(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Clamp(*arguments)


def test_all_mistakes_of_a_declaration_are_reported_at_once() -> None:
    wrong: Any = "x"
    with pytest.raises(ValueError, match=r"min must.*max must.*cast must.*round must"):
        Clamp(wrong, wrong, wrong, wrong)


class Inner(msgspec.Struct):
    scale: Scale = 0.5
    name: str = ""


class Frozen(msgspec.Struct, frozen=True):
    steps: Steps


class Pair(NamedTuple):
    steps: Steps
    text: str


class Options(TypedDict, total=False):
    steps: Steps


@dataclass
class Plain:
    steps: Steps


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Payload(msgspec.Struct):
    steps: Steps = 1
    maybe: Annotated[int | None, Clamp(1, 5)] = None
    either: Annotated[int, Clamp(1, 5)] | str | None = None
    inner: Inner | None = None
    many: list[Inner] = []
    named: dict[str, Scale] = {}
    pair: tuple[str, Steps] = ("", 1)
    run: tuple[Steps, ...] = ()
    unique: set[Steps] = set()
    frozen: Frozen | None = None
    record: Pair | None = None
    options: Options | None = None
    plain: Plain | None = None
    page: Page[Steps] | None = None
    unset: Steps | msgspec.UnsetType = msgspec.UNSET


def clamped(**fields: Any) -> Payload:
    clamp = compile_clamps(Payload)
    assert clamp is not None
    result = clamp(msgspec.convert(fields, Payload))
    assert isinstance(result, Payload)
    return result


@pytest.mark.parametrize(
    ("field", "given_", "expected"),
    [
        ("steps", 99, 50),
        ("maybe", 9, 5),
        ("maybe", None, None),
        ("either", 9, 5),
        ("either", "nine", "nine"),
        ("inner", {"scale": 3.0}, Inner(scale=1.0)),
        ("many", [{"scale": -1.0}, {}], [Inner(scale=0.0), Inner()]),
        ("named", {"a": 2.0, "b": 0.5}, {"a": 1.0, "b": 0.5}),
        ("pair", ["x", 99], ("x", 50)),
        ("run", [0, 7, 99], (1, 7, 50)),
        ("unique", [99, 100], {50}),
        ("frozen", {"steps": 99}, Frozen(50)),
        ("record", [99, "t"], Pair(50, "t")),
        ("options", {"steps": 99}, {"steps": 50}),
        ("options", {}, {}),
        ("plain", {"steps": 99}, Plain(50)),
        ("page", {"items": [99]}, Page([50])),
    ],
)
def test_clamps_reach_every_place_of_a_payload(field: str, given_: Any, expected: Any) -> None:
    assert getattr(clamped(**{field: given_}), field) == expected


def test_a_payload_in_range_is_returned_itself() -> None:
    clamp = compile_clamps(Payload)
    assert clamp is not None
    payload = Payload(inner=Inner(), many=[Inner()], named={"a": 0.5})
    assert clamp(payload) is payload


def test_the_given_payload_is_never_changed() -> None:
    clamp = compile_clamps(Payload)
    assert clamp is not None
    payload = Payload(steps=99, inner=Inner(scale=9.0), named={"a": 9.0}, many=[Inner()])
    before = msgspec.json.encode(payload)
    result = clamp(payload)
    assert msgspec.json.encode(payload) == before
    assert result.many is payload.many, "what did not change is shared"


class Tree(msgspec.Struct):
    steps: Steps
    children: list[Tree] = []


class PlainTree(msgspec.Struct):
    children: list[PlainTree] = []
    depth: Annotated[int, msgspec.Meta(ge=0)] = 0


def test_a_recursive_type_is_clamped_at_every_depth() -> None:
    clamp = compile_clamps(Tree)
    assert clamp is not None
    assert clamp(Tree(99, [Tree(0, [Tree(5)])])) == Tree(50, [Tree(1, [Tree(5)])])


def test_a_payload_that_is_nested_too_deeply_is_refused() -> None:
    clamp = compile_clamps(Tree)
    assert clamp is not None
    deep = Tree(99)
    for _ in range(sys.getrecursionlimit()):
        deep = Tree(1, [deep])
    with pytest.raises(ValidationError, match="nested too deeply"):
        clamp(deep)


@pytest.mark.parametrize("annotation", [PlainTree, str, dict[str, Any], list[PlainTree], Any])
def test_a_type_without_clamps_costs_nothing(annotation: Any) -> None:
    assert compile_clamps(annotation) is None


def test_the_innermost_of_two_clamps_yields_to_the_outermost() -> None:
    class Twice(msgspec.Struct):
        steps: Annotated[Steps, Clamp(1, 10)]

    Twice.__annotations__["steps"] = Annotated[Steps, Clamp(1, 10)]
    clamp = compile_clamps(Twice)
    assert clamp is not None
    assert clamp(Twice(99)).steps == 10


class OnText(msgspec.Struct):
    prompt: Annotated[str, Clamp(1, 5)]


class OnList(msgspec.Struct):
    sizes: Annotated[list[int], Clamp(1, 5)]


class OnUnion(msgspec.Struct):
    inner: OnText | None = None


class OnTwo(msgspec.Struct):
    prompt: Annotated[str, Clamp(1, 5)]
    data: Annotated[bytes | None, Clamp(1, 5)]


@pytest.mark.parametrize(
    ("annotation", "place"),
    [(OnText, "OnText.prompt"), (OnList, "OnList.sizes"), (OnUnion, "OnUnion.inner.prompt")],
)
def test_a_clamp_on_something_else_than_a_number_is_refused(annotation: Any, place: str) -> None:
    with pytest.raises(TypeError, match=rf"{place}: Clamp\(.*does not fit"):
        compile_clamps(annotation)


def test_every_misplaced_clamp_is_named() -> None:
    with pytest.raises(TypeError, match=r"OnTwo\.prompt: .*; OnTwo\.data: "):
        compile_clamps(OnTwo)
