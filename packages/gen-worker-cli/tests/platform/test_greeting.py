"""The first call that is suggested."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from gen_worker.cli.platform.greeting import curl_line, example_of
from gen_worker.cli.platform.projects import Deployed
from gen_worker.types import ImageAsset


class Style(msgspec.Struct):
    weight: float
    name: str = "x"


class Ask(msgspec.Struct):
    prompt: str
    steps: Annotated[int, Meta(ge=4)]
    style: Style
    size: Literal["small", "large"]
    tags: Annotated[list[str], Meta(min_length=2)]
    is_fast: bool
    mask: str | None
    seed: int = 0


class Picture(msgspec.Struct):
    image: ImageAsset
    width: int = 0


class Tree(msgspec.Struct):
    child: "Tree"


def test_the_example_is_accepted_by_the_schema_it_is_made_of() -> None:
    schema = msgspec.json.schema(Ask)
    example = example_of(schema, schema["$defs"])
    assert "seed" not in example
    msgspec.convert(example, Ask)


def test_a_schema_without_end_has_an_end() -> None:
    schema = msgspec.json.schema(Tree)
    example_of(schema, schema["$defs"])


def test_a_function_that_needs_a_file_is_not_called_with_a_text() -> None:
    rows = [
        {"owner": "ann", "endpoint": "paint", "name": name, "input_schema": schema}
        for name, schema in (("resize", msgspec.json.schema(Picture)), ("tree", {}))
    ]
    for functions, told in (
        (("resize",), "gen-worker invoke ann/paint/resize image@FILE --url http://h:1"),
        (("resize", "tree"), "curl http://h:1/v1/request/ann/paint/tree -d '{}'"),
    ):
        deployed = Deployed(owner="ann", endpoint="paint", release_id="r", functions=functions)
        schemas = [{**row, "input_schema": _body_of(row["input_schema"])} for row in rows]
        assert curl_line("http://h:1", deployed, {"functions": schemas}) == told


def _body_of(schema: Any) -> Any:
    """Return a schema as `/v1/functions` has it: its own object, and definitions beside."""
    definitions = schema.get("$defs", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**definitions.get(name, {}), "$defs": definitions}


KNOWN = [{"owner": "ann", "endpoint": "paint", "name": "draw", "input_schema": {}}]


@pytest.mark.parametrize("functions", [[], KNOWN])
def test_the_line_is_one_that_a_shell_runs(functions: list[Any]) -> None:
    deployed = Deployed(owner="ann", endpoint="paint", release_id="r", functions=("draw",))
    known = {"functions": functions}
    words = shlex.split(curl_line("http://h:1", deployed, known))
    assert words == ["curl", "http://h:1/v1/request/ann/paint/draw", "-d", "{}"]
    guarded = shlex.split(curl_line("http://h:1", deployed, known, token_file="/a b"))
    assert guarded[4:] == ["-H", "Authorization: Bearer $(cat '/a b')"]
