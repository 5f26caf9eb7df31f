"""A whole platform in a test: what goes wrong, and what its client sees of that."""

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, ValidationError, inference_function
from gen_worker.errors import ArtifactTransferError
from gen_worker.models import Repo
from gen_worker.testing.platform import Platform
from gen_worker.testing.platform_faults import Mishap, random_mishaps

runs: list[str] = []
ROOT = Path(__file__).parents[3]
WORDS = "one two three four five"


class Text(msgspec.Struct):
    text: str = ""


@inference_function
def shout(ctx: RequestContext, payload: Text) -> Text:
    runs.append(payload.text)
    if not payload.text:
        raise ValidationError("nothing to shout", path="$.text")
    return Text(payload.text.upper())


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for word in payload.text.split():
        yield Text(word)


@inference_function
def hold(ctx: RequestContext, payload: Text) -> Text:
    ctx.cancel_token.wait()
    return payload


@inference_function(models={"words": Repo("acme/words")})
def recite(ctx: RequestContext, words: str, payload: Text) -> Text:
    return Text((Path(words) / "words.txt").read_text())


def texts(items: list[Any]) -> str:
    return " ".join(item["text"] for item in items)


def test_a_function_is_called() -> None:
    with Platform(shout) as platform:
        assert platform.client.run("shout", text="hi") == {"text": "HI"}
        with pytest.raises(ValidationError, match=r"^nothing to shout$") as refused:
            platform.client.run("shout", text="")
        assert refused.value.path == "$.text"


def test_what_is_wrong_with_an_input_is_said_with_its_place() -> None:
    with Platform(shout) as platform:
        request = platform.client.submit("shout", text=5)
        with pytest.raises(ValidationError) as refused:
            request.result()
        assert refused.value.path == "$.text"
        shown = request.show()
        assert shown["path"] == "$.text"
        assert shown["safe_message"] == "Expected `str`, got `int` - at `$.text`"


TABLE = [
    (Mishap(kind="lose_worker"), 1),
    (Mishap(kind="lose_worker", at="result"), 2),
    (Mishap(kind="lose_worker", at="end"), 1),
    (Mishap(kind="cut"), 1),
    (Mishap(kind="cut", at="running"), 1),
    (Mishap(kind="cut", at="result"), 1),
    (Mishap(kind="twice"), 1),
    (Mishap(kind="twice", at="result"), 1),
    (Mishap(kind="twice", at="end"), 1),
    (Mishap(kind="restart", at="result"), 1),
]


@pytest.mark.parametrize(("mishap", "count"), TABLE)
def test_a_request_ends_once_whatever_goes_wrong(mishap: Mishap, count: int) -> None:
    runs.clear()
    with Platform([shout, spell]) as platform:
        platform.faults.add(mishap)
        request = platform.client.submit("shout", text="hi")
        assert request.result() == {"text": "HI"}
        assert platform.faults.happened == [mishap]
        names = [event.name for event in request.events()]
        assert names.count("result") == 1
    assert runs == ["hi"] * count


def test_faults_have_names() -> None:
    with Platform(shout) as platform:
        platform.faults.deliver_twice(at="result")
        assert platform.client.run("shout", text="hi") == {"text": "HI"}
        platform.faults.restart_scheduler(at="result", nth=2)
        assert platform.client.run("shout", text="ho") == {"text": "HO"}
        kinds = [(mishap.kind, mishap.at) for mishap in platform.faults.happened]
    assert kinds == [("twice", "result"), ("restart", "result")]


def test_a_stream_of_nothing_is_empty() -> None:
    with Platform(spell) as platform:
        assert platform.client.run("spell", text="") == []
        assert list(platform.client.stream("spell", text="")) == []


def test_a_worker_is_lost_in_the_middle_of_a_stream() -> None:
    with Platform(spell) as platform:
        platform.faults.lose_worker(after_deltas=3)
        begun: list[int] = []
        seen: list[Any] = []

        def forget(attempt: int) -> None:
            begun.append(attempt)
            seen.clear()

        for item in platform.client.stream("spell", text=WORDS, on_restart=forget):
            seen.append(item)
        assert texts(seen) == WORDS
        assert begun == [2]


def test_a_network_that_is_cut_loses_nothing_of_a_stream() -> None:
    with Platform(spell) as platform:
        platform.faults.cut_network(after_deltas=2)
        assert texts(list(platform.client.stream("spell", text=WORDS))) == WORDS


def test_a_worker_that_fell_silent_is_replaced_by_another() -> None:
    with Platform(spell, workers=2, lost_after_s=0.2) as platform:
        platform.faults.silence_worker(after_deltas=2)
        request = platform.client.submit("spell", text=WORDS)
        assert texts(request.result()) == WORDS
        assert platform.attempts(request.id) == 2
        platform.faults.end_silence()  # it says its own result, too
        assert texts(platform.client.run("spell", text=WORDS)) == WORDS


def test_clients_that_are_cut_off_and_slow_get_everything() -> None:
    with Platform(spell) as platform:
        platform.faults.slow_clients(0.01)
        stream = platform.client.stream("spell", text=WORDS)
        first = next(stream)
        platform.faults.cut_clients()
        assert texts([first, *stream]) == WORDS


def test_a_scheduler_that_restarts_keeps_what_waits() -> None:
    with Platform(shout, workers=0) as platform:
        request = platform.client.submit("shout", text="hi")
        platform.restart()
        platform.add_worker()
        assert request.result() == {"text": "HI"}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.txt").write_text("to be")
    return folder


def test_a_model_is_on_the_hub(words: Path) -> None:
    with Platform(recite, models={"acme/words": words}) as platform:
        assert platform.client.run("recite") == {"text": "to be"}


def test_a_hub_that_is_away_is_back_for_the_next_request(words: Path) -> None:
    with Platform(recite, workers=0, models={"acme/words": words}) as platform:
        platform.faults.lose_hub()
        platform.add_worker()
        with pytest.raises(ArtifactTransferError):
            platform.client.run("recite")
        platform.faults.restore_hub()
        assert platform.client.run("recite") == {"text": "to be"}


def test_a_project_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Platform(ROOT / "examples" / "marco-polo") as platform:
        assert platform.client.run("marco-polo", text="marco") == {"response": "polo"}


def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, variables = set(threading.enumerate()), dict(os.environ)
    with Platform([shout, hold], workers=2) as platform:
        platform.faults.lose_worker(at="running")
        platform.client.submit("hold")
        assert platform.client.run("shout", text="hi") == {"text": "HI"}
    assert set(threading.enumerate()) == threads
    assert dict(os.environ) == variables
    assert not list(tmp_path.iterdir())


def test_what_is_just_given_to_a_worker_outlives_the_scheduler() -> None:
    with Platform(shout) as platform:
        requests = [platform.client.submit("shout", text=f"hi {n}") for n in range(20)]
        platform.restart()
        assert [one.result() for one in requests] == [{"text": f"HI {n}"} for n in range(20)]


def spelled(platform: Platform, text: str) -> str:
    seen: list[Any] = []
    for item in platform.client.stream("spell", text=text, on_restart=lambda _: seen.clear()):
        seen.append(item)
    return texts(seen)


def call_all(platform: Platform, name: str) -> None:
    """Be a client that calls and streams, and gets what is right."""
    for number in range(4):
        text = f"{WORDS} {name} {number}"
        assert platform.client.run("shout", text=text) == {"text": text.upper()}
        assert spelled(platform, text) == text


@pytest.mark.chaos
def test_every_request_is_answered_whatever_goes_wrong(seed: int) -> None:
    with Platform([shout, spell], workers=2, lost_after_s=0.2) as platform:
        platform.faults.add(*random_mishaps(seed, count=8, requests=20, deltas=5))
        with ThreadPoolExecutor(3) as clients:
            for done in [clients.submit(call_all, platform, name) for name in ("a", "b", "c")]:
                done.result()
        listed = [request["status"] for request in platform.client.requests()]
        assert listed == ["succeeded"] * 24
