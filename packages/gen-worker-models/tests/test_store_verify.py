"""A flipped byte is found, taken out of service and mended, whatever shares it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, ValidationError
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore, DamagedBlobError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHARED, ALONE = b"shared" * 100, b"alone" * 100


def hex_of(content: bytes) -> str:
    return blake3(content).hexdigest()


def put(store: ContentStore, content: bytes) -> str:
    path = store.blob_path(hex_of(content))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(content)
    os.chmod(path, 0o444)
    return path


def described(files: Mapping[str, bytes]) -> Snapshot:
    return snapshot_of(
        SnapshotFile(path=path, size_bytes=len(content), blake3=hex_of(content))
        for path, content in files.items()
    )


def flip(path: str) -> None:
    """Change one byte of a read-only file in place, as a failing disk does."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.chmod(path, 0o444)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "cas", reserve_bytes=0)


@pytest.fixture
def one(store: ContentStore) -> Snapshot:
    for content in (SHARED, ALONE):
        put(store, content)
    snapshot = described({"s.bin": SHARED, "a/a.bin": ALONE})
    store.build(snapshot)
    return snapshot


@pytest.fixture
def other(store: ContentStore, one: Snapshot) -> Snapshot:
    snapshot = described({"s.bin": SHARED})
    store.build(snapshot)
    return snapshot


def test_a_whole_store_has_nothing_to_tell(
    store: ContentStore, one: Snapshot, other: Snapshot
) -> None:
    assert store.verify() == ()
    assert store.verify(one.digest) == ()
    assert store.snapshot(other.digest) is not None


def test_a_flipped_byte_is_found_and_mended(
    store: ContentStore, one: Snapshot, other: Snapshot
) -> None:
    path = store.blob_path(hex_of(SHARED))
    flip(path)
    (damage,) = store.verify()
    assert (damage.blake3, damage.path) == (hex_of(SHARED), path)
    assert set(damage.snapshots) == {one.digest, other.digest}
    assert not os.path.exists(path)
    assert [x.is_damaged for x in store.snapshots()] == [True, True]
    for snapshot in (one, other):
        assert store.snapshot(snapshot.digest) is None
        assert [file.blake3 for file in store.missing(snapshot)] == [hex_of(SHARED)]
    put(store, SHARED)
    for snapshot in (one, other):
        assert read(os.path.join(store.build(snapshot), "s.bin")) == SHARED
        assert store.snapshot(snapshot.digest) is not None
    assert store.verify() == ()


def test_only_what_shares_the_byte_is_taken_out(
    store: ContentStore, one: Snapshot, other: Snapshot
) -> None:
    flip(store.blob_path(hex_of(ALONE)))
    (damage,) = store.verify(one.digest)
    assert damage.snapshots == (one.digest,)
    assert store.snapshot(other.digest) is not None


def test_one_snapshot_is_verified_alone(
    store: ContentStore, one: Snapshot, other: Snapshot
) -> None:
    flip(store.blob_path(hex_of(ALONE)))
    assert store.verify(other.checkpoint_id) == ()
    assert store.snapshot(one.digest) is not None


def test_who_reads_a_damaged_snapshot_goes_on_while_it_is_mended(
    store: ContentStore, one: Snapshot
) -> None:
    with store.lease(one.digest) as path, open(os.path.join(path, "a/a.bin"), "rb") as reader:
        flip(store.blob_path(hex_of(SHARED)))
        store.verify()
        assert os.path.exists(os.path.join(path, "s.bin"))
        put(store, SHARED)
        assert store.build(one) == path
        assert read(os.path.join(path, "s.bin")) == SHARED
        assert reader.read() == ALONE


@pytest.mark.parametrize("harm", ["delete", "truncate", "replace"])
def test_harm_to_a_tree_alone_is_found_and_mended(
    store: ContentStore, one: Snapshot, harm: str
) -> None:
    root = store.build(one)
    path = os.path.join(root, "a/a.bin")
    os.unlink(path)
    if harm != "delete":
        with open(path, "wb") as file:
            file.write(ALONE[:-1] if harm == "truncate" else b"!" * len(ALONE))
    (damage,) = store.verify()
    assert (damage.path, damage.snapshots) == (path, (one.digest,))
    assert store.missing(one) == ()
    assert read(os.path.join(store.build(one), "a/a.bin")) == ALONE
    assert store.verify() == ()


def test_a_whole_directory_of_a_tree_comes_back(store: ContentStore, one: Snapshot) -> None:
    shutil.rmtree(os.path.join(store.build(one), "a"))
    assert len(store.verify()) == 1
    assert read(os.path.join(store.build(one), "a/a.bin")) == ALONE


def test_joined_and_generated_files_are_verified(store: ContentStore) -> None:
    parts = {f"w.bin.part{index:04d}": bytes([index]) * 100 for index in range(2)}
    listed = {
        "original_path": "w.bin",
        "total_bytes": 200,
        "parts": [{"size_bytes": 100, "digest": hex_of(x)} for x in parts.values()],
    }
    files = {**parts, "w.bin.parts.json": msgspec.json.encode(listed)}
    for content in files.values():
        put(store, content)
    snapshot = described(files)
    path = store.build(snapshot, generated={"g.json": b"{}"})
    assert store.verify() == ()
    for name in ("w.bin", "g.json"):
        flip(os.path.join(path, name))
    assert [os.path.basename(x.path) for x in store.verify()] == ["w.bin", "g.json"]
    store.build(snapshot, generated={"g.json": b"{}"})
    assert read(os.path.join(path, "w.bin")) == bytes(100) + b"\1" * 100
    assert store.verify() == ()


def test_a_mended_snapshot_needs_what_it_lacks(store: ContentStore, one: Snapshot) -> None:
    flip(store.blob_path(hex_of(ALONE)))
    store.verify()
    with pytest.raises(OSError, match="lacks 1 blobs"):
        store.build(one)
    assert store.snapshot(one.digest) is None


def test_a_blob_nobody_uses_is_verified_too(store: ContentStore) -> None:
    flip(put(store, b"loose"))
    (damage,) = store.verify()
    assert damage.snapshots == ()


def test_verifying_makes_writable_blobs_read_only(store: ContentStore) -> None:
    path = put(store, b"loose")
    os.chmod(path, 0o644)
    assert store.verify() == ()
    assert os.stat(path).st_mode & 0o222 == 0


def test_trees_of_other_workers_are_verified_through_their_blobs(store: ContentStore) -> None:
    path = put(store, SHARED)
    tree = os.path.join(store.root, "snapshots", "ab" * 32)
    os.makedirs(tree)
    os.link(path, os.path.join(tree, "s.bin"))
    flip(path)
    (damage,) = store.verify()
    assert damage.snapshots == ("ab" * 32,)
    assert store.snapshot("ab" * 32) is None


def test_a_record_that_leads_out_is_damage(store: ContentStore, one: Snapshot) -> None:
    secret = os.path.join(store.root, "..", "secret")
    with open(secret, "wb") as file:
        file.write(b"secret")
    record = {
        "digest": one.digest,
        "files": [{"path": "../../../secret", "size_bytes": 6, "blake3": "0" * 64, "is_own": True}],
    }
    with open(os.path.join(store.root, "state", "records", one.digest), "wb") as file:
        file.write(msgspec.json.encode(record))
    assert [x.snapshots for x in store.verify()] == [(one.digest,)]
    assert read(secret) == b"secret"
    assert read(os.path.join(store.build(one), "s.bin")) == SHARED


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"digest":1}'])
def test_a_record_beyond_reading_does_not_matter(
    store: ContentStore, one: Snapshot, content: bytes
) -> None:
    with open(os.path.join(store.root, "state", "records", one.digest), "wb") as file:
        file.write(content)
    assert store.snapshot(one.digest) is not None
    assert store.verify() == ()
    (snapshot,) = store.snapshots()
    assert snapshot.size_bytes == len(SHARED + ALONE)
    assert len(snapshot.blobs) == 2


def test_canceling_ends_it(store: ContentStore, one: Snapshot) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CanceledError):
        store.verify(token=token)
    assert store.snapshot(one.digest) is not None


def test_adding_a_file(store: ContentStore, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(ALONE)
    assert store.add_file(str(source)) == (hex_of(ALONE), len(ALONE))
    path = store.blob_path(hex_of(ALONE))
    assert read(path) == ALONE
    assert os.stat(path).st_mode & 0o222 == 0
    assert not os.path.samefile(path, source)
    assert store.has_blob(f"blake3:{hex_of(ALONE)}", len(ALONE))
    assert store.add_file(str(source), expected=hex_of(ALONE))[0] == hex_of(ALONE)
    with pytest.raises(DamagedBlobError, match="expected 0000"):
        store.add_file(str(source), expected="0" * 64)
    assert store.usage().blobs == 1
    with pytest.raises(OSError, match="cannot be read"):
        store.add_file(str(tmp_path / "absent"))


def test_adding_an_empty_file(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    digest, size = store.add_file(str(tmp_path / "empty"))
    assert (digest, size) == (hex_of(b""), 0)
    snapshot = snapshot_of([SnapshotFile(path="empty", size_bytes=0, blake3=digest)])
    assert read(os.path.join(store.build(snapshot), "empty")) == b""


@pytest.mark.parametrize("root", ["", b""])
def test_no_root_is_no_store(root: str) -> None:
    with pytest.raises(ValidationError, match="needs a directory"):
        ContentStore(root)
