"""`run`, `serve` and `repl` with models that a real hub serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Hub, Server, Terminal

PROJECT = """
import msgspec
from pathlib import Path
from gen_worker import Repo, RequestContext, inference, inference_function, invocable

class In(msgspec.Struct):
    text: str

class Out(msgspec.Struct):
    text: str
    loads: int

class Words:
    loads = 0

    def __init__(self, text):
        self.text = text

    @classmethod
    def from_pretrained(cls, path):
        cls.loads += 1
        return cls((Path(path) / "words.txt").read_text()[:5])

@inference_function(models={"words": Repo("acme/words")})
def say(ctx: RequestContext, words: Words, payload: In) -> Out:
    return Out(text=f"{words.text} {payload.text}", loads=Words.loads)

@inference(models={"words": Repo("acme/words")})
class Speaker:
    def setup(self, words: Words):
        self.words = words

    @invocable
    def speak(self, ctx: RequestContext, payload: In) -> Out:
        return Out(text=f"{self.words.text} {payload.text}!", loads=Words.loads)
"""


@pytest.fixture
def published(cli: Cli, start_hub: Callable[..., Hub]) -> Hub:
    """A hub with the model of the project, which is in the test's folder."""
    hub = start_hub()
    folder = cli.folder / "published"
    folder.mkdir()
    (folder / "words.txt").write_text("hello" * 4000)
    assert cli("hub", "push", str(folder), "acme/words", TENSORHUB_URL=hub.url).code == 0
    cli.write_project(PROJECT)
    return hub


@pytest.mark.claims("run.fetch", "run.models", "exit.3")
@pytest.mark.parametrize(("function", "text"), [("say", "hello you"), ("speak", "hello you!")])
def test_a_model_is_fetched_once_and_used_offline(
    cli: Cli, published: Hub, function: str, text: str
) -> None:
    missing = cli("run", function, "you", "--offline", TENSORHUB_URL=published.url)
    assert (missing.stdout, missing.code) == ("", 3)
    assert "'acme/words:prod'" in missing.stderr.splitlines()[-1]

    first = cli("run", function, "you", "--raw", TENSORHUB_URL=published.url)
    assert (first.values, first.code) == ([{"text": text, "loads": 1}], 0), first.stderr
    kinds = [str(report.get("type") or report.get("kind")) for report in first.reports]
    assert "worker.model.download.completed" in kinds or "model.download.completed" in kinds

    published.stop()
    again = cli("run", function, "you", "--raw", "--offline")
    assert again.values == first.values, again.stderr
    assert "model.download" not in again.stderr
    assert cli("doctor").code == 0, "what is here needs no hub"
    # The hub is silent; what the tag meant last is here.
    silent = cli("run", function, "you", "--raw", TENSORHUB_URL=published.url)
    assert silent.values == first.values, silent.stderr


@pytest.mark.claims("serve.models")
def test_a_server_loads_a_model_once(
    cli: Cli, published: Hub, serve: Callable[..., Server]
) -> None:
    serve(project=cli.folder, TENSORHUB_URL=published.url)
    answers: list[Any] = [cli("invoke", "say", text).values for text in ("you", "me")]
    assert answers == [
        [{"text": "hello you", "loads": 1}],
        [{"text": "hello me", "loads": 1}],
    ]


@pytest.mark.claims("repl.models")
def test_a_session_loads_a_model_once(cli: Cli, published: Hub) -> None:
    done = cli("repl", "--function", "say", stdin="you\nme\n", TENSORHUB_URL=published.url)
    assert done.values == [
        {"text": "hello you", "loads": 1},
        {"text": "hello me", "loads": 1},
    ], done.stderr
    offline = cli("repl", "--offline", "--function", "say", stdin="you\n", HOME="/nowhere")
    assert "acme/words:prod" in offline.stderr


@pytest.mark.claims("run.overrides")
def test_a_model_that_callers_may_not_choose(cli: Cli, published: Hub) -> None:
    done = cli("run", "say", "you", "_models.words=acme/mine", TENSORHUB_URL=published.url)
    assert (done.stdout, done.code) == ("", 2)
    assert "words" in done.stderr


@pytest.mark.claims("run.fetch")
def test_a_person_sees_how_far_a_download_is(published: Hub, terminal: Terminal) -> None:
    environment = {"TENSORHUB_URL": published.url, "GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S": "5000"}
    terminal.start("run", "say", "you", environment=environment)
    terminal.expect("say acme/words:prod 19.5 KiB")
    terminal.expect("hello you")
    assert terminal.wait() == 0
