"""Files go there and back through both clients."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import Asset, errors
from gen_worker.client import CallError, UnknownRequestError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Host


class Picture(msgspec.Struct):
    image: Any


class Facts(msgspec.Struct):
    content: str
    saved: Asset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    path.write_bytes(b"hello" * 1000)
    return path


def test_a_path_stands_for_its_file(client: Any, path: Path) -> None:
    for payload in ({"image": path}, Picture(path)):
        facts = client.run("look", payload, result_type=Facts)
        assert facts.content == "hello"
        assert client.file(facts.saved).read() == path.read_bytes()


def test_content_is_sent_once(host: Host, client: Any, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    client.run("look", {"image": path, "other": path})
    client.run("look", image=copy)
    client.upload(path)
    assert [upload.name for upload in host.uploads] == ["a_picture.png"]
    path.write_bytes(b"other" * 1000)
    assert client.run("look", image=path)["content"] == "other"
    assert len(host.uploads) == 2


def test_calls_at_a_time_send_their_common_file_once(host: Host, client: Any, path: Path) -> None:
    payloads = ({"image": path} for _ in range(8))
    assert [facts["content"] for facts in client.map("look", payloads)] == ["hello"] * 8
    assert len(host.uploads) == 1


def test_an_upload_is_an_asset(client: Any, path: Path) -> None:
    asset = client.upload(path, name="../.odd name?.png")
    assert asset.ref.endswith("/_.odd_name_.png")
    assert asset.size_bytes == 5000
    assert asset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert client.run("look", image=asset)["content"] == "hello"
    assert client.run("look", image={"ref": asset.ref})["content"] == "hello"
    with pytest.raises(FileNotFoundError):
        client.upload(path.parent / "nothing")
    with pytest.raises(FileNotFoundError):
        client.run("look", image=path.parent / "nothing")


def test_a_result_is_saved(client: Any, path: Path, tmp_path: Path) -> None:
    facts = client.run("look", image=path)
    target = tmp_path / "saved.bin"
    target.write_bytes(b"old")
    file = client.file(facts["saved"])
    file.save_to(target)
    assert target.read_bytes() == path.read_bytes()
    assert file.size_bytes == 5000
    assert file.ref == facts["saved"]["ref"]
    client.download(file.ref, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a picture.png", "again.bin", "host", "saved.bin"]


def test_content_that_came_with_the_result_is_not_fetched(client: Any, tmp_path: Path) -> None:
    inline = {"ref": "x.txt", "inline_bytes": base64.b64encode(b"abc").decode()}
    assert client.file(inline).read() == b"abc"
    client.file(Asset(ref="x.txt", inline_bytes=b"abc")).save_to(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_bytes() == b"abc"


def test_what_is_not_there_leaves_nothing(client: Any, path: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownRequestError):
        client.download("jobs/none/outputs/none", tmp_path / "none")
    saved = client.run("look", image=path, result_type=Facts).saved
    wrong = msgspec.structs.replace(saved, sha256="0" * 64)
    with pytest.raises(CallError, match="arrived with SHA-256"):
        client.download(wrong, tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        client.download(saved, tmp_path / "no folder" / "none")
    assert sorted(os.listdir(tmp_path)) == ["a picture.png", "host"]


@pytest.mark.parametrize("wrong", [{"no": "ref"}, {"ref": 3}, "https://elsewhere/x", ""])
def test_what_is_no_file_of_the_host_is_refused(client: Any, wrong: Any) -> None:
    with pytest.raises(errors.ValidationError):
        client.file(wrong).read()
