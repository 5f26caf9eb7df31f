"""The sizes that the settings allow are those the commands enforce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.runtime import EngineLimits
from gen_worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli

PROJECT = """
from collections.abc import Iterator
import msgspec
from gen_worker import RequestContext, inference_function

class Text(msgspec.Struct):
    text: str = ""
    number: int = 0

@inference_function
def repeat(ctx: RequestContext, payload: Text) -> Text:
    return Text(payload.text * payload.number)

@inference_function
def stream(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    yield Text("a" * payload.number)
    yield Text("b" * payload.number, number=1)
"""


@pytest.fixture
def project(cli: Cli) -> Path:
    return cli.write_project(PROJECT)


def ask(cli: Cli, project: Path, function: str, payload: Any, **settings: str) -> list[Any]:
    frame = {"function": function, "payload": payload, "stream": function == "stream"}
    stdin = msgspec.json.encode(frame).decode() + "\n"
    return cli("serve", project=project, stdin=stdin, **settings).values


def test_an_engines_limits_are_what_the_settings_are_by_default() -> None:
    """Without a source of settings the command does not read them."""
    limits, settings = EngineLimits(), load_settings(environ={}, files=())
    for name in ("max_input_bytes", "max_output_bytes", "max_output_delta_bytes"):
        assert getattr(limits, name) == getattr(settings, name)


def test_a_payload_may_be_too_large(cli: Cli, project: Path) -> None:
    words = ("run", "repeat", "text=" + "x" * 50)
    done = cli(*words, project=project, WORKER_MAX_INPUT_BYTES="40")
    assert done.code == 2
    assert "at most 40 are allowed: send what is large as a file" in done.stderr
    (answer,) = ask(cli, project, "repeat", {"text": "x" * 50}, WORKER_MAX_INPUT_BYTES="40")
    assert not answer["ok"]


def test_a_result_may_be_too_large(cli: Cli, project: Path) -> None:
    payload = {"text": "x", "number": 100}
    (kept,) = ask(cli, project, "repeat", payload, WORKER_MAX_OUTPUT_BYTES="200")
    (refused,) = ask(cli, project, "repeat", payload, WORKER_MAX_OUTPUT_BYTES="100")
    assert (kept["ok"], refused["ok"]) == (True, False)


def test_a_file_of_settings_is_heard_too(cli: Cli, project: Path) -> None:
    (project / ".env").write_text("WORKER_MAX_OUTPUT_BYTES=100\n")
    (answer,) = ask(cli, project, "repeat", {"text": "x", "number": 100})
    assert not answer["ok"]


def test_an_item_may_be_too_large_and_text_is_divided(cli: Cli, project: Path) -> None:
    *items, end = ask(cli, project, "stream", {"number": 100_000})
    texts = [item["value"]["text"] for item in items]
    assert "".join(texts) == "a" * 100_000
    assert len(texts) > 1
    assert not end["ok"]
    settings = {"WORKER_MAX_OUTPUT_DELTA_BYTES": "200000"}
    *items, end = ask(cli, project, "stream", {"number": 100_000}, **settings)
    assert end["ok"]
    assert [item["value"]["text"][0] for item in items[:2]] == ["a", "b"]


def test_a_stream_may_have_a_last_item(cli: Cli, project: Path) -> None:
    *items, end = ask(cli, project, "stream", {"number": 3}, WORKER_MAX_OUTPUT_DELTA_EVENTS="1")
    assert end["ok"]
    assert [item["value"].get("text") for item in items] == ["aaa", None]
    assert items[-1]["value"] == {"yielded": 1}


def test_a_limit_that_is_no_number_is_told_at_the_start(cli: Cli, project: Path) -> None:
    done = cli("run", "repeat", project=project, WORKER_MAX_INPUT_BYTES="much")
    assert done.code == 2
    assert "WORKER_MAX_INPUT_BYTES" in done.stderr
