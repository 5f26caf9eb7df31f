"""The first call that is suggested."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from gen_worker.cli.platform.greeting import curl_line, example_of
from gen_worker.cli.platform.projects import Deployed


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


KNOWN = [{"owner": "ann", "endpoint": "paint", "name": "draw", "input_schema": {}}]


@pytest.mark.parametrize("functions", [[], KNOWN])
def test_the_line_is_one_that_a_shell_runs(functions: list[Any]) -> None:
    deployed = Deployed(owner="ann", endpoint="paint", release_id="r", functions=("draw",))
    known = {"functions": functions}
    words = shlex.split(curl_line("http://h:1", deployed, known))
    assert words == ["curl", "http://h:1/v1/request/ann/paint/draw", "-d", "{}"]
    guarded = shlex.split(curl_line("http://h:1", deployed, known, token_file="/a b"))
    assert guarded[4:] == ["-H", "Authorization: Bearer $(cat '/a b')"]
