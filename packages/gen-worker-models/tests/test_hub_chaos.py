"""A hub that is killed at any moment loses nothing it answered, and never publishes a half."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from blake3 import blake3

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub import (
    Clock,
    FileEntry,
    HubClient,
    RepoNotFoundError,
    publish_folder,
)
from gen_worker.models.hub.wire import FlavorPublication
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken

SERVER = Path(__file__).with_name("hub_process.py")
PART_BYTES = 64 * 1024
REF = TensorhubRef(owner="acme", repo="model")
LATEST = TensorhubRef(owner="acme", repo="model", tag="latest")


def quick_clock() -> Clock:
    """Return a clock whose waits pass at once: a killed hub does not come back at its URL."""
    waited = 0.0

    def sleep(seconds: float, _token: CancelToken | None) -> None:
        nonlocal waited
        waited += seconds

    return Clock(now=lambda: time.monotonic() + waited, sleep=sleep)


class Process:
    """A hub in a process of its own."""

    def __init__(self, directory: Path, *settings: str) -> None:
        command = [sys.executable, str(SERVER), str(directory), f"part_bytes={PART_BYTES}"]
        self._process = subprocess.Popen(
            [*command, *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the hub did not start"

    def client(self) -> HubClient:
        return HubClient(self.url, clock=quick_clock())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def begin(*settings: str) -> Process:
        running.append(Process(tmp_path / "hub", *settings))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


def model(folder: Path, chance: random.Random) -> dict[str, bytes]:
    """Write a few files of several parts each, and return their contents."""
    folder.mkdir()
    sizes = [0, 10, PART_BYTES, 3 * PART_BYTES + 1, 5 * PART_BYTES]
    files = {f"file-{index}": chance.randbytes(size) for index, size in enumerate(sizes)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def published_files(client: HubClient) -> dict[str, bytes] | None:
    """Return what `latest` has, every byte of it downloaded; None when nothing is published."""
    try:
        found = client.resolve(LATEST)
    except RepoNotFoundError:
        return None
    return {file.path: httpx.get(file.url, timeout=60).content for file in found.snapshot.files}


@pytest.mark.chaos
def test_a_publication_survives_kills(
    start: Callable[..., Process], tmp_path: Path, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    files = model(tmp_path / "model", chance)
    settings = ("finalizes_later=true",) if chance.random() < 0.5 else ()
    for _ in range(3):
        process = start(*settings)
        with process.client() as client:
            assert published_files(client) in (None, files)
        killer = threading.Timer(chance.uniform(0.0, 0.6), process.kill)
        killer.start()
        with process.client() as client, contextlib.suppress(ArtifactTransferError):
            publish_folder(client, tmp_path / "model", "acme/model")
        killer.join()
    process = start(*settings)
    with process.client() as client:
        assert published_files(client) in (None, files)
        done = publish_folder(client, tmp_path / "model", "acme/model")
        assert published_files(client) == files
        found = client.resolve(REF)
        assert found.snapshot.checkpoint_id == done.checkpoint_ids[0]
        assert client.tree("acme", "model") == client.tree("acme", "model", tag="prod")


def ask(process: Process, method: str, url: str, **body: Any) -> Any:
    answer = httpx.request(method, f"{process.url}{url}", json=body, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()


def test_the_same_upload_goes_on_after_a_kill(start: Callable[..., Process]) -> None:
    data = os.urandom(3 * PART_BYTES + 5)
    digest = blake3(data).hexdigest()
    file = {"path": "weights", "blake3": digest, "size_bytes": len(data)}
    revisions = "/api/v1/repos/acme/model/revisions"
    process = start()
    revision = ask(process, "POST", revisions)["session_id"]
    uploads = f"{revisions}/{revision}/uploads"
    ticket = ask(process, "POST", uploads, **file)
    first = httpx.put(ticket["part_urls"][0], content=data[:PART_BYTES], timeout=60)
    httpx.put(ticket["part_urls"][2], content=data[2 * PART_BYTES : 3 * PART_BYTES], timeout=60)
    process.kill()

    process = start()
    again = ask(process, "POST", uploads, **file)
    assert again["upload_id"] == ticket["upload_id"]
    assert [part["part_number"] for part in again["parts"]] == [1, 3]
    assert again["parts"][0]["etag"] == first.headers["etag"]
    etags = {part["part_number"]: part["etag"] for part in again["parts"]}
    for number in (2, 4):
        start_at = (number - 1) * PART_BYTES
        sent = httpx.put(
            again["part_urls"][number - 1],
            content=data[start_at : start_at + PART_BYTES],
            timeout=60,
        )
        etags[number] = sent.headers["etag"]
    process.kill()

    process = start()
    parts = [{"part_number": number, "etag": etags[number]} for number in sorted(etags)]
    complete = f"{uploads}/{ticket['upload_id']}/complete"
    done = ask(process, "POST", complete, parts=parts)
    process.kill()

    process = start()
    assert ask(process, "POST", complete, parts=parts) == done  # asked again, as after no answer
    entry = {"path": "weights", "digest": f"blake3:{digest}", "size_bytes": len(data)}
    flavor = {"snapshot_manifest": [entry], "flavor": "bf16", "flavors": ["bf16"], "lineage": []}
    body = {"tags": [{"tag": "prod", "default_flavor": "bf16"}], "checkpoint_flavors": [flavor]}
    answer = ask(process, "POST", f"{revisions}/{revision}/finalize", **body)
    process.kill()

    process = start()
    assert ask(process, "POST", f"{revisions}/{revision}/finalize", **body) == answer
    with process.client() as client:
        found = client.resolve(REF)
        assert (found.revision_seq, len(found.snapshot.files)) == (1, 1)
        assert httpx.get(found.snapshot.files[0].url, timeout=60).content == data


def test_a_finalize_that_was_accepted_is_carried_out_by_the_next_hub(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    """The record of a 202 alone is enough, as when the hub dies right behind its answer."""
    import sqlite3

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(b"content")
    process = start()
    with process.client() as client:
        revision = client.open_revision("acme", "model")
        sent = revision.upload(tmp_path / "model" / "file", "file")
    process.kill()
    entry = FileEntry(path="file", digest=f"blake3:{sent.blake3}", size_bytes=7)
    flavor = FlavorPublication(snapshot_manifest=(entry,), flavor="a", flavors=("a",), lineage=())
    import msgspec

    request = msgspec.json.encode({"checkpoint_flavors": [flavor]})
    records = sqlite3.connect(tmp_path / "hub" / "hub.sqlite3")
    with records:
        records.execute(
            "UPDATE revisions SET state = 'finalizing', request = ? WHERE id = ?",
            (request, revision.revision_id),
        )
    records.close()
    process = start()
    with process.client() as client:
        deadline = time.monotonic() + 60
        path = f"/api/v1/repos/acme/model/revisions/{revision.revision_id}"
        while ask(process, "GET", path)["state"] == "finalizing":
            assert time.monotonic() < deadline
        assert published_files(client) == {"file": b"content"}


def test_two_hubs_share_a_directory(start: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(b"content")
    one, other = start(), start()
    with one.client() as client:
        done = publish_folder(client, tmp_path / "model", "acme/model")
    with other.client() as client:
        again = publish_folder(client, tmp_path / "model", "acme/model")
        assert published_files(client) == {"file": b"content"}
    assert again.checkpoint_ids == done.checkpoint_ids
    assert again.sent_bytes == 0
