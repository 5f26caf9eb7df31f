"""Models of every provider are found on the disk, and go away without taking others along."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import ValidationError
from gen_worker.models.on_disk import ModelNotHereError, ModelsOnDisk
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.sources.resolutions import KnownFile, Resolutions, Resolved
from gen_worker.models.store import ContentStore, SnapshotInUseError

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "cas", reserve_bytes=0)


@pytest.fixture
def disk(store: ContentStore, tmp_path: Path) -> ModelsOnDisk:
    return ModelsOnDisk(store, str(tmp_path / "hf"))


def stored(store: ContentStore, source: Path, *contents: str) -> str:
    files = []
    for number, content in enumerate(contents):
        source.write_text(content)
        digest, size = store.add_file(str(source))
        files.append(SnapshotFile(path=f"{number}.txt", size_bytes=size, blake3=digest))
    snapshot = snapshot_of(files)
    store.build(snapshot)
    return snapshot.digest


def cached(home: Path) -> Path:
    """Make a repository with two commits that share a blob."""
    folder = home / "hub" / "models--acme--Words"
    (folder / "blobs").mkdir(parents=True)
    for name, size in (("shared", 10), ("old", 20), ("new", 40)):
        (folder / "blobs" / name).write_bytes(b"x" * size)
    for commit, own in ((OLD, "old"), (NEW, "new")):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in (own, "shared"):
            (snapshot / name).symlink_to(os.path.join("..", "..", "blobs", name))
    for revision, commit in (("main", NEW), ("refs/pr/1", NEW), ("v1", OLD)):
        path = folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return folder


def test_refs_of_a_snapshot_are_what_was_asked_for(
    store: ContentStore, disk: ModelsOnDisk, tmp_path: Path
) -> None:
    digest = stored(store, tmp_path / "source", "one", "two!")
    known = Resolutions(store)
    for key in ('tensorhub:acme/x:prod["bf16","",[],[]]', "tensorhub:acme/x:v1", "hub hf:a/B"):
        known.put(Resolved(key=key, digest=digest))
    (model,) = disk.models()
    assert model.names == ("acme/x:prod", "acme/x:v1", "hf:a/B")
    assert (model.provider, model.size_bytes, model.files) == ("tensorhub", 7, 2)
    for word in ("acme/x", "acme/x:v1", "hf:a/B", digest[:6], f"acme/x@blake3:{digest}"):
        assert disk.find(word) == model
    assert disk.remove(model) == 7
    assert list(known.all()) == []


def test_a_name_of_nothing_and_of_several(
    store: ContentStore, disk: ModelsOnDisk, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotHereError, match="'acme/x' is not on this machine"):
        disk.find("acme/x")
    with pytest.raises(ValidationError):
        disk.find("no-ref")
    for commit in ("a" * 39 + "0", "a" * 39 + "1"):
        (tmp_path / "hf" / "hub" / "models--a--B" / "snapshots" / commit).mkdir(parents=True)
    with pytest.raises(ValidationError, match="give more digits"):
        disk.find("aaaaaa")


def test_a_model_in_use_names_its_users_and_stays(
    store: ContentStore, disk: ModelsOnDisk, tmp_path: Path
) -> None:
    digest = stored(store, tmp_path / "source", "one")
    with store.lease(digest):
        model = disk.find(digest)
        assert model.used_by[0].startswith(f"{os.getpid()} on ")
        with pytest.raises(SnapshotInUseError, match=f"process {os.getpid()} on "):
            disk.remove(model)
    assert disk.find(digest).used_by == ()


def test_commits_of_hugging_face_share_blobs(disk: ModelsOnDisk, tmp_path: Path) -> None:
    folder = cached(tmp_path / "hf")
    models = {model.digest: model for model in disk.models()}
    assert models[OLD].names == ("hf:acme/Words@v1",)
    assert set(models[NEW].names) == {"hf:acme/Words", "hf:acme/Words@refs/pr/1"}
    assert (models[OLD].size_bytes, models[NEW].size_bytes) == (30, 50)
    assert disk.remove(disk.find("hf:acme/Words")) == 40
    assert sorted(os.listdir(folder / "blobs")) == ["old", "shared"]
    assert os.path.isfile(folder / "snapshots" / OLD / "shared")
    assert not (folder / "refs" / "main").exists()
    assert disk.remove(disk.find(OLD)) == 30
    assert not folder.exists()


def test_models_of_civitai(store: ContentStore, disk: ModelsOnDisk, tmp_path: Path) -> None:
    for version in ("7", "8"):
        folder = tmp_path / "cas" / "civitai" / version
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"w" * 100)
    known = Resolutions(store)
    root = str(tmp_path / "cas" / "civitai" / "7")
    files = (KnownFile("model.safetensors", 100),)
    attributes = {"source_revision": "manifest_sha256:abc"}
    known.put(Resolved(key="civitai:12", digest="7", root=root, files=files, attributes=attributes))
    named = disk.find("civitai:12")
    assert (named.digest, named.size_bytes, named.manifest) == ("7", 100, "abc")
    assert disk.find("civitai:versions/8").manifest == ""
    assert disk.remove(named) == 100
    assert [model.digest for model in disk.models()] == ["8"]
    assert known.get("civitai:12") is None
