"""The typed module of a host can be imported, and called through."""

from __future__ import annotations

import keyword
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import ImageAsset
from gen_worker.client import AsyncClient, Client, generate
from gen_worker.client.stubs.names import (
    class_name,
    docstring,
    literal,
    members,
    method_name,
    variable_name,
)
from gen_worker.schema import json_schema

if TYPE_CHECKING:
    from conftest import Host


class Cat(msgspec.Struct, tag="cat"):
    name: str


class Dog(msgspec.Struct, tag="dog"):
    r"""Barks at "strangers\"."""

    name: str
    age: int = 3


class Odd(msgspec.Struct):
    children: list[Odd] = []
    word: str = msgspec.field(name="class", default="x")
    number: Annotated[int, msgspec.Meta(ge=1, description="How many.")] = 2
    ratio: float = 1
    mode: Literal["a", "b | c", "Any"] = "a"
    pets: list[Cat | Dog] = []
    table: dict[str, list[int | None] | None] = {}
    pair: tuple[int, str] = (1, "a")
    raw: bytes = b"abc"
    image: ImageAsset | None = None


def function(name: str, takes: Any, gives: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "endpoint": "demo",
        "owner": None,
        "output_mode": "single",
        "input_schema": None if takes is None else json_schema(takes),
        "output_schema": None if gives is None else json_schema(gives),
        **more,
    }


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the module of some functions."""

    def loaded(functions: list[dict[str, Any]]) -> Any:
        module = types.ModuleType("generated")
        monkeypatch.setitem(sys.modules, "generated", module)
        exec(compile(generate(functions), "generated.py", "exec"), module.__dict__)
        return module

    return loaded


def test_functions_are_called_through_it(host: Host, load: Any, tmp_path: Path) -> None:
    picture = tmp_path / "x.bin"
    picture.write_bytes(b"hello")
    with Client(host.url) as client:
        module = load(client.functions())
        demo = module.Demo(client, tag="prod")
        assert demo.echo(module.Text(text="a", count=2)) == module.Text(text="a", count=2)
        assert demo.echo() == module.Text()
        assert list(demo.count(module.Text(count=2)))[1].count == 1
        facts = demo.look(module.Picture(image=picture))
        assert facts.content == "hello"
        assert client.file(facts.saved).read() == b"hello"
    assert module.Demo.echo.__doc__ == "Return what came."


async def test_functions_are_awaited_through_it(host: Host, load: Any) -> None:
    async with AsyncClient(host.url) as client:
        module = load(await client.functions())
        demo = module.AsyncDemo(client)
        assert (await demo.echo(module.Text(text="a"))).text == "a"
        assert [item.count async for item in demo.count(module.Text(count=2))] == [0, 1]


def test_types_are_those_of_the_author(load: Any) -> None:
    module = load([function("make odd", Odd, Odd), function("pet", Cat, Cat | Dog)])
    value = module.Odd(class_="y", pets=[module.Dog(name="rex")], image=Path("x"))
    sent = msgspec.json.encode(msgspec.structs.replace(value, image=None))
    assert msgspec.json.decode(sent, type=Odd) == Odd(word="y", pets=[Dog("rex")])
    shown = msgspec.json.encode(Odd(word="z", pets=[Cat("tom")], table={"a": None}))
    found = msgspec.json.decode(shown, type=module.MakeOddOdd)
    assert (found.class_, found.pets[0], found.pair) == ("z", module.Cat(name="tom"), (1, "a"))
    assert msgspec.json.encode(module.Odd()) == b"{}", "what is not given is the author's to say"
    assert module.Dog.__doc__ == 'Barks at "strangers\\".'


def test_the_same_functions_give_the_same_text() -> None:
    functions = [function("b", Odd, Cat), function("a", None, None), function("c", Cat, Odd)]
    text = generate(functions)
    assert generate(functions[::-1]) == text
    assert "class Cat(" in text
    assert text.count("class Cat(") == 1


def test_names_do_not_clash(load: Any) -> None:
    class Client(msgspec.Struct):
        name: str

    module = load(
        [
            function("class", Client, None),
            function("Class", None, Client),
            function("class", None, None, endpoint="other"),
            function("3d", None, None, owner="me"),
        ]
    )
    assert set(vars(module.Demo)) >= {"class_", "class_2"}
    assert module.ClassClient(name="a").name == "a"
    assert module.MeDemo.field_3d
    assert module.Other.class_


def test_no_functions_are_a_module(load: Any) -> None:
    assert load([]).__doc__.startswith("Typed clients of no function.")


@given(st.text(max_size=30))
def test_any_text_is_made_a_name(text: str) -> None:
    for name in (variable_name(text), method_name(text), class_name(text)):
        assert name.isidentifier()
        assert not keyword.iskeyword(name)


@given(st.text(max_size=60))
def test_any_text_can_be_written(text: str) -> None:
    assert eval(literal(text)) == text
    lines = docstring(text, "    ")
    body = "\n".join(["def f():", *lines, "    return 1"])
    scope: dict[str, Any] = {}
    exec(body, scope)
    assert scope["f"]() == 1


def test_unions_are_split_outside_of_what_they_hold() -> None:
    assert members('list[int | None] | Literal["a | b", "]"] | None') == [
        "list[int | None]",
        'Literal["a | b", "]"]',
        "None",
    ]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_KEYS = ("type", "anyOf", "enum", "properties", "items", "title", "$ref", "$defs", "required")


@given(st.dictionaries(st.sampled_from(_KEYS), ANY_JSON, max_size=5))
def test_any_schema_gives_a_module(schema: dict[str, Any]) -> None:
    """What a host says is not trusted: nothing of it becomes code."""
    text = generate([{"name": "f", "input_schema": schema, "output_schema": schema}])
    compile(text, "generated.py", "exec")
