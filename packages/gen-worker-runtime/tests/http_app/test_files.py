"""Files over HTTP: uploaded, referred to by payloads, and outputs fetched; nothing beside them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from gen_worker.runtime.http import HttpOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from conftest import Host, RunHost


def test_a_file_goes_in_and_its_output_comes_out(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path) as host, host.client() as client:
        content = os.urandom(3_000_000)
        kept = client.post("/v1/files", params={"name": "in.bin"}, content=content)
        assert (kept.status_code, kept.json()["size_bytes"]) == (201, len(content))
        ref = kept.json()["ref"]
        assert kept.headers["location"] == f"/v1/files/{ref}"
        body = {"payload": {"image": {"ref": ref}}, "request_id": "r1"}
        output = client.post("/v1/request/look", json=body).json()["output"]
        assert output["size_bytes"] == len(content)
        assert output["saved"]["ref"] == "jobs/r1/outputs/copy.bin"
        assert (tmp_path / "jobs/r1/outputs/copy.bin").read_bytes() == content
        found = client.get(f"/v1/files/{output['saved']['ref']}")
        assert found.content == content
        assert found.headers["x-content-type-options"] == "nosniff"
        again = client.post("/v1/request/look", json={"image": {"ref": output["saved"]["ref"]}})
        assert again.json()["success"], "an output may be the next call's input"


def test_parts_of_a_file(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path) as host, host.client() as client:
        url = client.post("/v1/files?name=a.txt", content=b"0123456789").headers["location"]
        part = client.get(url, headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert part.headers["content-range"] == "bytes 2-4/10"
        assert client.get(url, headers={"Range": "bytes=-3"}).content == b"789"
        assert client.get(url, headers={"Range": "bytes=10-"}).status_code == 416
        head = client.head(url)
        assert (head.headers["content-length"], head.content) == ("10", b"")
        assert head.headers["content-type"] == "text/plain"
        condition = {"Range": "bytes=2-4", "If-Range": '"other"'}
        assert client.get(url, headers=condition).content == b"0123456789"


@pytest.mark.parametrize(
    "ref",
    [
        "jobs/../secret",
        "jobs/%2e%2e/secret",
        "jobs/..%2fsecret",
        "jobs%2f..%2fsecret",
        "../secret",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "secret",
        "jobs",
        "jobs/",
        "jobs/r",
        "jobs/r/link",
        "jobs/r/folder/inside",
        "jobs/r/nul",
        "jobs/%00",
        "jobs/r\\..\\..\\secret",
        ".incomplete/x",
        "jobs/" + "x" * 3000,
    ],
)
def test_nothing_but_outputs_can_be_fetched(tmp_path: Path, run_host: RunHost, ref: str) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/inside").write_text("s")
    outputs = tmp_path / "outputs"
    (outputs / "jobs/r").mkdir(parents=True)
    (outputs / "secret").write_text("s")
    (outputs / ".incomplete").mkdir()
    (outputs / ".incomplete/x").write_text("s")
    (outputs / "jobs/r/link").symlink_to(tmp_path / "secret")
    (outputs / "jobs/r/folder").symlink_to(tmp_path / "elsewhere")
    with run_host(outputs) as host:
        peer = host.talk(f"GET /v1/files/{ref} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        with peer:
            answer = peer.recv(65536)
        assert b" 404 " in answer.split(b"\r\n")[0], answer
        assert not answer.endswith(b"s")
        with host.client() as client:
            found = client.post("/v1/request/look", json={"image": {"ref": ref}})
            assert found.status_code == 400, "nor named by a payload"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "nul", "a\\b", "a\0b", "x" * 300])
def test_an_uploads_name_is_a_plain_name(client: httpx.Client, name: str) -> None:
    found = client.post("/v1/files", params={"name": name}, content=b"x")
    assert (found.status_code, found.json()["error"]) == (400, "invalid_name")


def test_an_upload_that_breaks_off_leaves_nothing(
    host: Host, tmp_path: Path, run_host: RunHost
) -> None:
    with run_host(tmp_path) as fresh:
        peer = fresh.talk(
            b"POST /v1/files?name=a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx"
        )
        until(lambda: any("a" in files for _, _, files in os.walk(tmp_path)))
        peer.close()
        until(lambda: uploads(tmp_path) == [])


def test_an_upload_that_is_refused_leaves_nothing(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, HttpOptions(max_body_bytes=1000)) as fresh, fresh.client() as client:
        for content in (b"x" * 1001, iter([b"x" * 600] * 2)):
            assert client.post("/v1/files", content=content).status_code == 413
        assert uploads(tmp_path) == []


def uploads(folder: Path) -> list[str]:
    return [name for _, folders, _ in os.walk(folder) for name in folders if "upload-" in name]


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


@pytest.mark.parametrize(
    "name",
    [
        "\u0100.txt",
        "\u753b\u50cf.png",
        "a b%20c.txt",
        "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_an_upload_may_have_any_name(client: httpx.Client, name: str) -> None:
    made = client.post("/v1/files", params={"name": name}, content=b"data")
    assert made.status_code == 201, made.text
    assert made.json()["ref"].endswith(f"/inputs/{name}")
    assert made.headers["location"].isascii()
    assert client.get(made.headers["location"]).content == b"data"
