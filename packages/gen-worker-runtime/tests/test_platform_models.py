"""Where models are on a whole platform; a second worker gets one when the first is full."""

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.models import Repo
from gen_worker.testing.platform import Platform

PATIENCE_S = 60.0
gate = threading.Event()


class Text(msgspec.Struct):
    text: str = ""


@inference_function(models={"words": Repo("acme/words")})
def study(ctx: RequestContext, words: str, payload: Text) -> Text:
    """Read until the test has seen enough."""
    assert gate.wait(PATIENCE_S)
    return Text((Path(words) / "words.txt").read_text() + payload.text)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.txt").write_text("to be")
    return folder


def tiers(platform: Platform) -> dict[str, Any]:
    """Return on which workers a model is, as `/v1/models` and `/v1/workers` agree on it."""
    found = {model["ref"]: model["workers"] for model in platform.client.models()}
    return dict(found.get("acme/words:prod", {}))


def await_tier(platform: Platform, worker_id: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while tiers(platform).get(worker_id) != "ram":
        assert time.monotonic() < until, tiers(platform)
        time.sleep(0.05)


def test_a_model_is_cold_then_warm_and_then_on_a_second_worker_too(words: Path) -> None:
    gate.set()
    with Platform(study, workers=2, models={"acme/words": words}) as platform:
        assert tiers(platform) == {}
        first = platform.client.submit("study")
        assert first.result() == {"text": "to be"}
        (home,) = (row["worker_id"] for row in platform.client.requests())
        await_tier(platform, home)  # it says so with its next heartbeat
        for _ in range(3):
            platform.client.submit("study").result()
        assert {row["worker_id"] for row in platform.client.requests()} == {home}

        gate.clear()
        try:
            crowd = [platform.client.submit("study", text=str(number)) for number in range(24)]
            (other,) = {one["worker_id"] for one in platform.client.workers()} - {home}
            await_tier(platform, other)
        finally:
            gate.set()
        assert [one.result() for one in crowd] == [{"text": f"to be{n}"} for n in range(24)]
        said = {one["worker_id"]: dict(one["models"]) for one in platform.client.workers()}
        assert said == {worker: {"acme/words:prod": "ram"} for worker in tiers(platform)}
