"""Ranges, signatures and digests of what the hub hands out."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from blake3 import blake3

from gen_worker.errors import ArtifactTransferError, AuthError
from gen_worker.models.hub import HubClient, publish_folder
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningHub

REF = TensorhubRef(owner="acme", repo="model")
DATA = os.urandom(3_000_017)


class Published:
    """A hub with one file, and the file's URL."""

    def __init__(self, hub: RunningHub, folder: Path, data: bytes = DATA) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "weights.bin").write_bytes(data)
        self.hub = hub
        self.client = hub.client()
        publish_folder(self.client, folder, "acme/model")
        self.digest = blake3(data).hexdigest()

    @property
    def url(self) -> str:
        return self.client.resolve(REF).snapshot.files[0].url

    def get(self, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(self.url, headers=names, timeout=60)


@pytest.fixture(scope="module")
def published(module_hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Any:
    one = Published(module_hub, tmp_path_factory.mktemp("published"))
    yield one
    one.client.close()


def test_the_whole_file(published: Published) -> None:
    answer = published.get()
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"{published.digest}"'
    head = httpx.head(published.url, timeout=60)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=5-1048581", 5, 1_048_582),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=10-{SIZE + 1000}", 10, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE + 1}", 0, SIZE),
    ],
)
def test_a_range_is_answered_exactly(published: Published, text: str, start: int, end: int) -> None:
    answer = published.get(range=text)
    assert (answer.status_code, answer.content) == (206, DATA[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("text", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused_with_the_size(published: Published, text: str) -> None:
    answer = published.get(range=text)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "text", ["bytes=5-2", "bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=a-b"]
)
def test_what_is_no_single_range_gets_the_whole_file(published: Published, text: str) -> None:
    assert published.get(range=text).status_code == 200


def test_if_range_asks_for_the_same_bytes(published: Published) -> None:
    same = published.get(range="bytes=0-9", if_range=f'"{published.digest}"')
    other = published.get(range="bytes=0-9", if_range='"something else"')
    assert (same.status_code, other.status_code) == (206, 200)


def test_an_empty_file_has_no_ranges(hub: RunningHub, tmp_path: Path) -> None:
    one = Published(hub, tmp_path / "model", b"")
    assert (one.get().status_code, one.get().content) == (200, b"")
    assert one.get(range="bytes=0-").status_code == 416
    one.client.close()


def test_urls_expire_and_cannot_be_changed(
    serve_hub: Callable[..., RunningHub], tmp_path: Path
) -> None:
    moment = time.time()
    one = Published(serve_hub(url_ttl_s=60, now=lambda: moment), tmp_path / "model", b"abc")
    url = one.url
    assert httpx.get(url, timeout=60).status_code == 200
    parts = urlsplit(url)
    other = "0" * 64
    for wrong in (
        url.replace(one.digest, other),
        url.replace("sig=", "sig=x"),
        url.replace("exp=", "exp=9"),
        url.partition("?")[0],
        f"{parts.scheme}://{parts.netloc}{parts.path}?exp=&sig=",
    ):
        refused = httpx.get(wrong, timeout=60)
        assert (refused.status_code, refused.json()["error"]) == (403, "url_refused")
    moment += 61
    expired = httpx.get(url, timeout=60)
    assert (expired.status_code, expired.json()["error"]) == (403, "url_refused")
    assert "expired" in expired.json()["message"]
    one.client.close()


def test_blobs_are_read_by_digest_and_verified(published: Published, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert published.client.get_blob(f"blake3:{published.digest}", str(target)) == SIZE
    assert target.read_bytes() == DATA
    with HubClient(published.hub.url) as stranger, pytest.raises(AuthError):
        stranger.get_blob(published.digest, str(tmp_path / "other"))
    with pytest.raises(ArtifactTransferError) as missing:
        published.client.get_blob("0" * 64, str(tmp_path / "other"))
    assert missing.value.status_code == 404
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy"]


def test_a_blob_that_is_not_what_its_digest_says_is_not_kept(
    hub: RunningHub, tmp_path: Path
) -> None:
    published = Published(hub, tmp_path / "model")
    (path,) = (tmp_path / "hub" / "cas" / "blobs").rglob(published.digest)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ArtifactTransferError, match="has the BLAKE3"):
        published.client.get_blob(published.digest, str(tmp_path / "copy"))
    with pytest.raises(ArtifactTransferError, match="more than 10 bytes"):
        published.client.get_blob(published.digest, str(tmp_path / "copy"), max_bytes=10)
    assert not (tmp_path / "copy").exists()
    published.client.close()


def test_the_hashes_of_a_blobs_chunks(hub: RunningHub, tmp_path: Path) -> None:
    data = os.urandom(8 * 1024 * 1024 + 5)
    one = Published(hub, tmp_path / "model", data)
    expected = tuple(
        blake3(data[start : start + 8 * 1024 * 1024]).hexdigest() for start in (0, 8 * 1024 * 1024)
    )
    assert one.client.chunk_hashes(one.digest) == expected
    assert one.client.chunk_hashes(f"blake3:{one.digest}") == expected  # kept, not hashed again
    assert one.client.chunk_hashes("0" * 64) is None
    one.client.close()


def test_many_slow_downloads_leave_the_hub_responsive(published: Published) -> None:
    """Forty clients that read nothing, and one that asks."""
    parts = urlsplit(published.url)
    request = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    idle = []
    for _ in range(40):
        sock = socket.create_connection((parts.hostname, parts.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(request)
        idle.append(sock)
    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(lambda _: published.get().content, range(8)))
    assert all(answer == DATA for answer in answers)
    for sock in idle:
        sock.close()


def test_a_client_that_leaves_stops_the_reading(published: Published) -> None:
    parts = urlsplit(published.url)
    before = threading.active_count()
    for _ in range(20):
        with socket.create_connection((parts.hostname, parts.port)) as sock:
            sock.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert sock.recv(10)
    assert published.get().content == DATA
    assert threading.active_count() <= before + 16
