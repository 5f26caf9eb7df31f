"""Command-line arguments become exactly the payload the function's types describe."""

from __future__ import annotations

import base64
import contextlib
import enum
import string
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import types
from gen_worker.annotations import node_of
from gen_worker.cli.arguments import apply_tokens, split_token
from gen_worker.cli.failures import UsageError
from gen_worker.cli.fields import Field, primary_field, struct_fields

if TYPE_CHECKING:
    from pathlib import Path


class Mood(enum.Enum):
    CALM = "calm"
    LOUD = "very loud"


class Level(enum.IntEnum):
    LOW = 1


class Style(msgspec.Struct):
    weight: float = 1.0
    name: str = ""
    tags: list[str] = []


Seed = NewType("Seed", int)


class Ask(msgspec.Struct, kw_only=True):
    steps: int
    prompt: Annotated[str, "marker"]
    hires: bool = False
    scale: float = 1.0
    seed: Seed | None = None
    quality: Literal["draft", "1", "none"] = "draft"
    count: Literal[1, 2, None] = 1
    mood: Mood = Mood.CALM
    level: Level = Level.LOW
    tags: list[str] = []
    sizes: list[int] = []
    pair: tuple[int, str] = (0, "")
    note: str | None = None
    style: Style = msgspec.field(default_factory=Style)
    meta: dict[str, int] = {}
    extra: Any = None
    blob: bytes = b""
    image: types.ImageAsset | None = None
    images: list[types.ImageAsset] = []
    styles: list[Style] = []
    python_name: str = msgspec.field(default="", name="jsonName")


FIELDS = struct_fields(Ask)


def apply(*words: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    return apply_tokens(words, base or {}, FIELDS)


@pytest.mark.claims("args.grammar", "args.coercion")
@pytest.mark.parametrize(
    ("words", "payload"),
    [
        (["red fox"], {"prompt": "red fox"}),
        ([""], {"prompt": ""}),
        (["line\nline", "steps=3"], {"prompt": "line\nline", "steps": 3}),
        (["prompt=123"], {"prompt": "123"}),
        (["prompt=seed=5"], {"prompt": "seed=5"}),
        (["steps=-4"], {"steps": -4}),
        (["scale=0.4"], {"scale": 0.4}),
        (["scale=2"], {"scale": 2.0}),
        (["hires=yes"], {"hires": True}),
        (["hires=OFF"], {"hires": False}),
        (["seed="], {"seed": None}),
        (["seed=7"], {"seed": 7}),
        (["seed=none"], {"seed": None}),
        (["note=none"], {"note": "none"}),
        (["note="], {"note": None}),
        (["quality=1"], {"quality": "1"}),
        (["quality=none"], {"quality": "none"}),
        (["count=2"], {"count": 2}),
        (["count=none"], {"count": None}),
        (["mood=very loud"], {"mood": "very loud"}),
        (["mood=LOUD"], {"mood": "very loud"}),
        (["level=1"], {"level": 1}),
        (["tags=a", "tags=b"], {"tags": ["a", "b"]}),
        (['tags:=["a"]', "tags=b"], {"tags": ["a", "b"]}),
        (["tags=a", 'tags:=["b"]'], {"tags": ["b"]}),
        (["sizes=1", "sizes=2"], {"sizes": [1, 2]}),
        (["pair=1", "pair=2"], {"pair": [1, "2"]}),
        (["style.weight=0.4", "style.name=7"], {"style": {"weight": 0.4, "name": "7"}}),
        (["style.tags=x", "style.tags=y"], {"style": {"tags": ["x", "y"]}}),
        (["style.weight:=2"], {"style": {"weight": 2}}),
        (["meta.a=1", "meta.b=2"], {"meta": {"a": 1, "b": 2}}),
        (["extra.deep.x=true"], {"extra": {"deep": {"x": True}}}),
        (["extra=1.5"], {"extra": 1.5}),
        (["extra=null"], {"extra": None}),
        (["extra=plain"], {"extra": "plain"}),
        (["image=https://a/b.png"], {"image": {"ref": "https://a/b.png"}}),
        (["image.ref=x"], {"image": {"ref": "x"}}),
        (["steps=1", "steps=2"], {"steps": 2}),
        (["jsonName=a"], {"jsonName": "a"}),
        (["python_name=a"], {"jsonName": "a"}),
        (["_models.engine=acme/x:prod#1"], {"_models": {"engine": "acme/x:prod#1"}}),
        (['_models:={"engine":"a/b"}'], {"_models": {"engine": "a/b"}}),
    ],
)
def test_arguments_are_read_as_the_field_types_say(words: list[str], payload: Any) -> None:
    assert apply(*words) == payload


@pytest.mark.claims("args.literal-text")
@pytest.mark.parametrize("text", ["me@example.com", "x=y", "a:=b", "2+2=4", "=x", "@handle", "-5"])
def test_text_that_names_no_field_is_the_prompt(text: str) -> None:
    assert apply(text) == {"prompt": text}


@pytest.mark.claims("args.mistakes", "args.unknown-key")
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["steps=abc"], "expected an integer, got 'abc' - at `$.steps`"),
        (["scale=nan"], "expected a number, got 'nan' - at `$.scale`"),
        (["hires=maybe"], "expected true or false, got 'maybe' - at `$.hires`"),
        (["quality=best"], "expected one of 'draft', '1', 'none', got 'best'"),
        (["mood=sad"], "expected one of 'calm', 'very loud'"),
        (["sizes=1", "sizes=x"], "expected an integer, got 'x' - at `$.sizes[1]`"),
        (["styles=x"], "expected an object"),
        (["style=x"], "expected an object"),
        (["style.wieght=1"], "no key 'wieght' in 'style': did you mean 'weight'?"),
        (["style.wieght:=1"], "at `$.style.wieght`"),
        (["style.name.x=1"], "'style.name' has no keys of its own"),
        (["style.=1"], "empty part"),
        (["style..name=1"], "empty part"),
        (["extra." + ".".join("a" * 100) + "=1"], "at most 64 parts"),
        (["setps=4"], "no field 'setps', did you mean 'steps'?"),
        (["setps:=4"], "no field 'setps', did you mean 'steps'?"),
        (["fox", "nope=4"], "no field 'nope'; fields: steps, prompt"),
        (["fox", "wolf"], "second bare argument 'wolf'"),
        (["tags:=[1"], "not JSON"),
        (["extra:=" + "[" * 100_000], "not JSON"),
        (["extra:=\ud800"], "is not UTF-8 text"),
        (["prompt@nowhere.txt"], "cannot read 'nowhere.txt': No such file or directory"),
        (["prompt@a\0b"], "cannot read"),
        (["image@nowhere.png"], "no file 'nowhere.png' - at `$.image`"),
    ],
)
def test_a_mistake_names_the_place_and_the_remedy(words: list[str], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply(*words)
    assert part in str(caught.value)


@pytest.mark.claims("args.all-mistakes")
def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        apply("steps=a", "scale=b", "prompt=fine")
    assert len(caught.value.problems) == 2


@pytest.mark.claims("args.over-payload")
def test_arguments_are_set_over_the_payload_and_leave_it_alone() -> None:
    base = {"style": {"weight": 1.0}, "tags": ["z"], "steps": 1}
    assert apply("style.name=n", "tags=a", base=base) == {
        "style": {"weight": 1.0, "name": "n"},
        "tags": ["a"],
        "steps": 1,
    }
    assert base == {"style": {"weight": 1.0}, "tags": ["z"], "steps": 1}


@pytest.mark.claims("args.files")
def test_values_come_from_files(tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("text\n")
    number = tmp_path / "n"
    number.write_text("42\n")
    data = tmp_path / "data.json"
    data.write_text('{"weight": 2}')
    binary = tmp_path / "b.png"
    binary.write_bytes(b"\xff\x00")
    asset = {"ref": str(binary)}
    assert apply(
        f"prompt@{text}",
        f"steps@{number}",
        f"style@{data}",
        f"blob@{binary}",
        f"image@{binary}",
        f"images@{binary}",
        f"images@{binary}",
        f"tags@{text}",
    ) == {
        "prompt": "text\n",
        "steps": 42,
        "style": {"weight": 2},
        "blob": base64.b64encode(b"\xff\x00").decode(),
        "image": asset,
        "images": [asset, asset],
        "tags": ["text\n"],
    }
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        apply(f"prompt@{binary}")
    styles = tmp_path / "styles.json"
    styles.write_text('[{"name": "a"}]')
    assert apply(f"styles@{styles}") == {"styles": [{"name": "a"}]}


@pytest.mark.claims("args.files")
def test_a_bare_value_of_an_asset_function_is_a_file_or_a_url(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(b"x")
    fields = (Field("image", node_of(types.ImageAsset), True, "image"),)
    assert apply_tokens([str(file)], {}, fields) == {"image": {"ref": str(file)}}
    assert apply_tokens(["https://a/b"], {}, fields) == {"image": {"ref": "https://a/b"}}


@pytest.mark.claims("args.no-schema")
def test_without_a_schema_a_file_that_is_no_text_is_referred_to(tmp_path: Path) -> None:
    text, binary = tmp_path / "a.txt", tmp_path / "b.png"
    text.write_text("hello")
    binary.write_bytes(b"\xff\x00")
    words = [f"a@{text}", f"b@{binary}"]
    assert apply_tokens(words, {}, None) == {"a": "hello", "b": {"ref": str(binary)}}
    assert apply_tokens(words, {}, None, len) == {"a": "hello", "b": len(str(binary))}


@pytest.mark.claims("args.no-schema")
def test_without_a_schema_values_are_guessed_and_bare_text_is_refused() -> None:
    assert apply_tokens(["a=1", "b.c=none", "d=x", "e:=[1]"], {}, None) == {
        "a": 1,
        "b": {"c": None},
        "d": "x",
        "e": [1],
    }
    with pytest.raises(UsageError, match="fields are not known"):
        apply_tokens(["red fox"], {}, None)


@pytest.mark.claims("args.primary")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("a", int, True), ("b", Annotated[str, 1], True)], "b"),
        ([("a", str, False), ("b", int, True)], "b"),
        ([("a", int, False), ("b", str, False)], "a"),
        ([("a", NewType("Text", str), True)], "a"),
        ([], None),
    ],
)
def test_the_primary_field(fields: list[tuple[str, Any, bool]], expected: str | None) -> None:
    found = primary_field(
        [Field(name, node_of(kind), needed, name) for name, kind, needed in fields]
    )
    assert (found and found.name) == expected


def test_a_function_without_fields_takes_no_arguments() -> None:
    with pytest.raises(UsageError, match="takes no fields"):
        apply_tokens(["text"], {}, ())
    with pytest.raises(UsageError, match="no field 'a'"):
        apply_tokens(["a=1"], {}, ())


texts = st.text(st.characters(codec="utf-8"), max_size=40)


@pytest.mark.claims("args.coercion")
@given(texts)
def test_named_text_is_kept_as_it_was_typed(text: str) -> None:
    assert apply(f"prompt={text}") == {"prompt": text}


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_numbers_survive(steps: int, scale: float, hires: bool) -> None:
    payload = apply("x", f"steps={steps}", f"scale={scale!r}", f"hires={hires}")
    assert payload == {"prompt": "x", "steps": steps, "scale": scale, "hires": hires}


@given(st.lists(texts, min_size=1))
def test_a_list_of_text_is_given_by_repetition(items: list[str]) -> None:
    assert apply(*[f"tags={item}" for item in items]) == {"tags": items}


keys = st.sampled_from([field.name for field in FIELDS] + ["style.weight", "style.x", "nope", ""])
operators = st.sampled_from([":=", "=", "@", ""])
noise = st.text(st.sampled_from(string.printable), max_size=12)


@pytest.mark.claims("args.mistakes")
@given(st.lists(st.tuples(keys, operators, noise).map("".join), max_size=4))
def test_any_arguments_give_json_or_a_usage_error(words: list[str]) -> None:
    with contextlib.suppress(UsageError):
        payload = apply(*words)
        assert isinstance(msgspec.json.decode(msgspec.json.encode(payload)), dict)


@given(noise)
def test_splitting_loses_nothing(word: str) -> None:
    token = split_token(word, None)
    assert str(token) == word
