"""A publication whose files go up before all of them are there: each once, visible at the end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from blake3 import blake3

from gen_worker.errors import CanceledError
from gen_worker.models.hub import Flavor, HubClient, Publication

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunningHub

WEIGHTS = b"weights " * 1000


class Wire(httpx.BaseTransport):
    """Passes requests on and remembers them; refuses those that a test names, once each."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self._changed = threading.Condition()
        self.asked: list[str] = []
        self.refused: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = f"{request.method} {request.url.path.rpartition('/')[2]}"
        if asked in self.refused:
            self.refused.remove(asked)
            answer = httpx.Response(409, json={"error": "scripted"})
        else:
            answer = self._inner.handle_request(request)
            answer.read()
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        return answer

    def wait_for(self, asked: str) -> None:
        """Wait until something was answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: asked in self.asked, 120), self.asked

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def client(hub: RunningHub, wire: Wire) -> Iterator[HubClient]:
    with hub.client(transport=wire) as client:
        yield client


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A folder on its way to the place `made`."""
    folder = tmp_path / "draft"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def paths(client: HubClient) -> dict[str, str]:
    return {entry["path"]: entry["digest"] for entry in client.tree("acme", "model")}


def digest_of(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def flavor(folder: Path) -> Flavor:
    return Flavor(folder=str(folder), name="bf16")


def test_a_file_that_was_sent_is_found_wherever_it_is_then(
    client: HubClient, wire: Wire, draft: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    (names / "left").mkdir(parents=True)  # by a process that was killed
    with Publication(client, "acme/model", names=str(names)) as publication:
        publication.send(draft / "model.safetensors")
        made = draft.rename(tmp_path / "made")
        wire.wait_for("POST complete")
        assert paths(client) == {}
        (made / "config.json").write_bytes(b"{}")
        done = publication.publish([flavor(made)], tags=("prod",))
    assert sorted(paths(client)) == ["config.json", "model.safetensors"]
    assert (done.files, done.sent_bytes) == (2, len(WEIGHTS) + 2)
    assert wire.asked.count("POST uploads") == 2
    assert wire.asked.count("POST revisions") == wire.asked.count("POST finalize") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "made"]


def test_a_file_that_changed_is_published_as_it_is(
    client: HubClient, wire: Wire, draft: Path, tmp_path: Path
) -> None:
    with Publication(client, "acme/model", names=str(tmp_path / "names")) as publication:
        publication.send(draft / "model.safetensors")
        wire.wait_for("POST complete")
        (draft / "model.safetensors").write_bytes(b"other")
        publication.publish([flavor(draft)])
    assert paths(client) == {"model.safetensors": digest_of(b"other")}


@pytest.mark.parametrize("step", ["revisions", "uploads", "complete"])
def test_what_could_not_be_sent_early_is_sent_in_the_end(
    client: HubClient, wire: Wire, draft: Path, tmp_path: Path, step: str
) -> None:
    wire.refused.append(f"POST {step}")
    with Publication(client, "acme/model", names=str(tmp_path / "names")) as publication:
        publication.send(draft / "model.safetensors")
        wire.wait_for(f"POST {step}")
        publication.publish([flavor(draft)])
    assert paths(client) == {"model.safetensors": digest_of(WEIGHTS)}
    assert wire.asked.count(f"POST {step}") == 2


def test_a_publication_that_is_not_made_is_given_up(
    client: HubClient, wire: Wire, draft: Path, tmp_path: Path
) -> None:
    publication = Publication(client, "acme/model", names=str(tmp_path / "names"))
    with publication:
        publication.send(draft / "model.safetensors")
        wire.wait_for("POST complete")
    assert wire.asked[-1].startswith("DELETE ")
    assert paths(client) == {}
    assert not (tmp_path / "names").exists()
    with pytest.raises(CanceledError):
        publication.send(draft / "model.safetensors")
