"""`gen-worker describe`: one JSON document that programs may rely on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Finished

HOSTS = Path(__file__).parents[3] / "docs" / "host-integration.md"
PAINTER = '''
import msgspec
from collections.abc import AsyncIterator
from typing import Annotated, Literal
from gen_worker import Clamp, Repo, RequestContext, Resources, dispatch, inference, invocable

weights = Repo("main_model", "acme/painter")

class Ask(msgspec.Struct):
    prompt: str
    steps: Annotated[int, Clamp(1, 50)] = 20
    quality: Literal["draft", "final"] = "draft"

class Reply(msgspec.Struct):
    caption: str

@inference(models={"core": Repo("acme/core").allow_override("acme.Pipe"),
                   "engine": dispatch("quality", {"draft": weights.flavor("int8"),
                                                  "final": weights.flavor("bf16")})},
           resources=Resources(accelerator="cuda", min_vram_gb=6))
class Painter:
    def setup(self, core): ...

    @invocable(name="paint_it", timeout_ms=5000, description="Paints.")
    def paint(self, ctx: RequestContext, payload: Ask, engine) -> Reply:
        """Paint."""

    @invocable
    async def stream(self, ctx: RequestContext, payload: Ask, engine) -> AsyncIterator[Reply]:
        yield Reply(caption="")
'''


@pytest.fixture
def document(cli: Cli) -> dict[str, Any]:
    done = cli("describe", project=cli.write_project(PAINTER))
    assert (done.stderr, done.code, done.stdout.count("\n")) == ("", 0, 1)
    (document,) = done.values
    assert isinstance(document, dict)
    return document


@pytest.mark.claims("describe.document")
def test_the_document_has_the_keys_of_protocol_version_1(document: dict[str, Any]) -> None:
    assert list(document)[:5] == [
        "protocol_version",
        "gen_worker_version",
        "capabilities",
        "endpoint",
        "functions",
    ]
    assert document["protocol_version"] == 1
    assert document["endpoint"] == {
        "main_module": "app",
        "kind": "inference",
        "classes": ["Painter"],
        "name": "app",
    }
    paint = document["functions"][0]
    assert {name: paint[name] for name in list(paint)[:6]} == {
        "name": "paint_it",
        "class": "Painter",
        "method": "paint",
        "kind": "inference",
        "is_generator": False,
        "input_schema": {
            "title": "Ask",
            "type": "object",
            "properties": {
                "prompt": {"type": "string"},
                "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
                "quality": {"enum": ["draft", "final"], "default": "draft"},
            },
            "required": ["prompt"],
        },
    }
    assert paint["output"] == "Reply"


@pytest.mark.claims("describe.models")
def test_models_are_described_as_they_are_bound(document: dict[str, Any]) -> None:
    models = document["functions"][0]["models"]
    core = {"type": "Repo", "provider": "tensorhub", "ref": "acme/core", "tag": "prod"}
    assert models["core"].items() >= {**core, "flavor": None, "allow_override": True}.items()
    assert models["engine"]["type"] == "Dispatch"
    assert models["engine"]["field"] == "quality"
    assert {key: row["flavor"] for key, row in models["engine"]["table"].items()} == {
        "draft": "int8",
        "final": "bf16",
    }


@pytest.mark.claims("describe.additions")
def test_what_was_added_later(document: dict[str, Any]) -> None:
    paint, stream = document["functions"]
    assert paint["slug"] == "paint-it"
    assert paint["primary_field"] == "prompt"
    assert paint["resources"].items() >= {"accelerator": "cuda", "min_vram_gb": 6.0}.items()
    assert paint["limits"]["timeout_ms"] == 5000
    assert paint["output_schema"]["properties"] == {"caption": {"type": "string"}}
    assert paint["description"] == "Paints."
    assert (paint["is_async"], paint["output_mode"]) == (False, "single")
    assert (stream["is_async"], stream["output_mode"]) == (True, "incremental")
    assert stream["is_generator"]


@pytest.mark.claims("describe.capabilities")
def test_capability_tokens_are_those_of_the_document(document: dict[str, Any]) -> None:
    table = HOSTS.read_text().partition("| token |")[2].partition("\n\n")[0]
    assert document["capabilities"] == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert document["capabilities"][:9] == [
        "describe",
        "list_functions",
        "prefetch",
        "cancel",
        "streaming",
        "tcp_listen",
        "serve_sidecar",
        "keep_alive",
        "events",
    ]


@pytest.mark.claims("describe.json-flag")
def test_json_is_what_is_printed_anyway(shapes: Callable[..., Finished]) -> None:
    assert shapes("describe", "--json").stdout == shapes("describe").stdout


@pytest.mark.claims("describe.pretty")
def test_pretty_is_the_same_document_indented(shapes: Callable[..., Finished]) -> None:
    pretty = shapes("describe", "--pretty").stdout
    assert pretty.startswith('{\n  "protocol_version": 1,\n')
    assert msgspec.json.decode(pretty) == shapes("describe").values[0]


@pytest.mark.claims("describe.kinds")
def test_several_kinds_are_a_list(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from collections.abc import Iterator\n"
        "from gen_worker import (ConversionContext, RequestContext, conversion,\n"
        "    inference_function, invocable)\n"
        "from gen_worker.types import ProducedFlavor\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference_function\n"
        "def echo(ctx: RequestContext, payload: In) -> In:\n    return payload\n"
        "@conversion\n"
        "class Quantize:\n"
        "    def setup(self): ...\n"
        "    @invocable\n"
        "    def convert(self, ctx: ConversionContext, payload: In) -> Iterator[ProducedFlavor]:\n"
        "        yield ProducedFlavor(path='x')\n"
    )
    (document,) = cli("describe", project=folder).values
    assert isinstance(document, dict)
    assert document["endpoint"]["kind"] == ["conversion", "inference"]
