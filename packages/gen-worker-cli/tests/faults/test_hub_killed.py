"""A hub that is killed at any moment: each request ends, and those whose models are here go on."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Service, Site

pytestmark = pytest.mark.one_python

APP = """
import os
import msgspec
from gen_worker import RequestContext, inference_function
from gen_worker.models import Repo

class Item(msgspec.Struct):
    number: int

class Size(msgspec.Struct):
    size: int

@inference_function(models={"words": Repo("acme/words")})
def measure(ctx: RequestContext, words: str, payload: Item) -> Size:
    return Size(os.path.getsize(os.path.join(words, "words.txt")))
"""
MAY_PASS = {"artifact_transfer", "retryable"}


class Hub:
    """A hub at one address, with a model."""

    def __init__(self, site: Site) -> None:
        self._words = [sys.executable, "-m", "gen_worker.cli", "hub", "serve", "--dir", "hub"]
        self._site = site
        self.service = self._start("0")
        self.port = self.url.rpartition(":")[2]

    def _start(self, port: str) -> Service:
        words = [*self._words, "--port", port]
        service = self._site.add_service(words, "hub")
        service.start()
        self.url = str(msgspec.json.decode(service.line())["url"])
        return service

    def kill(self) -> None:
        self.service.kill()

    def start(self) -> None:
        self.service = self._start(self.port)


@pytest.fixture
def hub(site: Site, tmp_path: Path) -> Hub:
    hub = Hub(site)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "words.txt").write_bytes(random.Random(0).randbytes(3_000_000))
    done = site.cli("hub", "push", str(tmp_path / "model"), "acme/words", "--url", hub.url)
    assert done.code == 0, done.stderr
    site.cli.environment["TENSORHUB_URL"] = hub.url
    return hub


@pytest.mark.chaos
def test_requests_end_and_those_whose_models_are_here_go_on(
    site: Site, hub: Hub, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    site.start()
    site.deploy(APP)
    worker = site.add_worker(TENSORHUB_CACHE_DIR=str(tmp_path / "first"))
    requests = [site.submit("measure", {"number": number}) for number in range(3)]
    time.sleep(rng.random() * 1.5)
    hub.kill()
    requests += [site.submit("measure", {"number": number}) for number in range(3)]
    time.sleep(rng.random() * 0.5)
    hub.start()
    for request_id in requests:
        answer = site.ended(request_id)
        if answer["status"] == "succeeded":
            assert answer["output"] == {"size": 3_000_000}
        else:
            assert answer["error_type"] in MAY_PASS, answer["safe_message"]
    if not worker.is_up:  # without the hub it could not begin
        worker = site.add_worker(TENSORHUB_CACHE_DIR=str(tmp_path / "first"))
    assert site.ended(site.submit("measure", {"number": 1}))["output"] == {"size": 3_000_000}
    hub.kill()
    assert site.ended(site.submit("measure", {"number": 2}))["output"] == {"size": 3_000_000}
    site.drained()
