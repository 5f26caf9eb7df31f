"""A snapshot is built from blobs whole or not at all, and its bytes are what its digest says."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, ValidationError
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore, DamagedBlobError, MissingBlobsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES = {"model_index.json": b"{}", "unet/weights.safetensors": b"w" * 5000, "vae/a.bin": b"a"}


def hex_of(content: bytes) -> str:
    return blake3(content).hexdigest()


def snapshot_with(files: Mapping[str, bytes]) -> Snapshot:
    return snapshot_of(
        SnapshotFile(path=path, size_bytes=len(content), blake3=hex_of(content))
        for path, content in files.items()
    )


def put(store: ContentStore, content: bytes) -> str:
    """Put a blob where a downloader puts it."""
    path = store.blob_path(hex_of(content))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def filled(store: ContentStore, files: Mapping[str, bytes]) -> Snapshot:
    for content in files.values():
        put(store, content)
    return snapshot_with(files)


def tree(path: str) -> dict[str, bytes]:
    found = {}
    for directory, _, names in os.walk(path):
        for name in names:
            full = os.path.join(directory, name)
            with open(full, "rb") as file:
                found[os.path.relpath(full, path)] = file.read()
    return found


def leftovers(store: ContentStore) -> list[str]:
    work = os.path.join(store.root, "state", "work")
    return os.listdir(work) if os.path.isdir(work) else []


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "cas", reserve_bytes=0)


def test_a_snapshot_is_its_files(store: ContentStore) -> None:
    snapshot = filled(store, FILES)
    assert store.snapshot(snapshot.digest) is None
    path = store.build(snapshot)
    assert path == os.path.join(store.root, "snapshots", snapshot.digest)
    assert tree(path) == FILES
    assert store.snapshot(snapshot.digest) == store.snapshot(snapshot.checkpoint_id) == path
    assert leftovers(store) == []


def test_a_new_store_on_the_same_directory_knows_it(store: ContentStore) -> None:
    path = store.build(filled(store, FILES))
    assert ContentStore(store.root).snapshot(os.path.basename(path)) == path


def test_missing_blobs_are_listed_once_largest_first(store: ContentStore) -> None:
    snapshot = snapshot_with({"a": b"1", "b": b"12", "c": b"12", "d": b"123"})
    put(store, b"1")
    assert [file.size_bytes for file in store.missing(snapshot)] == [3, 2]
    with pytest.raises(MissingBlobsError, match="lacks 2 blobs of 5 bytes") as caught:
        store.build(snapshot)
    assert caught.value.files == store.missing(snapshot)
    assert caught.value.retryable
    assert store.snapshot(snapshot.digest) is None


def test_a_blob_of_another_size_is_missing(store: ContentStore) -> None:
    snapshot = filled(store, {"a": b"12345"})
    with open(store.blob_path(snapshot.files[0].blake3), "wb") as file:
        file.write(b"123")
    assert store.missing(snapshot) == snapshot.files


def test_a_size_that_was_left_out_is_unknown(store: ContentStore) -> None:
    files = {"a": b"12345", "empty": b""}
    snapshot = snapshot_of(
        SnapshotFile(path=path, size_bytes=0, blake3=hex_of(content))
        for path, content in files.items()
    )
    assert [file.path for file in store.missing(snapshot)] == ["a", "empty"]
    filled(store, files)
    assert store.missing(snapshot) == ()
    assert tree(store.build(snapshot)) == files
    (stored,) = store.snapshots()
    assert stored.size_bytes == 5
    assert store.verify() == ()


def test_a_present_snapshot_misses_nothing(store: ContentStore) -> None:
    snapshot = filled(store, FILES)
    store.build(snapshot)
    os.unlink(store.blob_path(snapshot.files[0].blake3))
    assert store.missing(snapshot) == ()


def test_a_snapshot_that_contradicts_itself_is_refused(store: ContentStore) -> None:
    digest = put(store, b"x").rpartition("/")[2]
    files = [
        SnapshotFile(path=name, size_bytes=size, blake3=digest)
        for name, size in [("a", 1), ("b", 2)]
    ]
    with pytest.raises(ValidationError, match="the same blob"):
        store.missing(snapshot_of(files))


def test_blobs_that_nobody_verified_are_hashed_before_use(store: ContentStore) -> None:
    snapshot = filled(store, {"a": b"right", "b": b"fine"})
    bad = put(store, b"right")
    with open(bad, "wb") as file:
        file.write(b"wrong")
    with pytest.raises(DamagedBlobError, match="fetch it again") as caught:
        store.build(snapshot)
    assert caught.value.digest == hex_of(b"right")
    assert [file.path for file in store.missing(snapshot)] == ["a"]
    put(store, b"right")
    assert tree(store.build(snapshot)) == {"a": b"right", "b": b"fine"}


def test_nobody_can_write_into_blobs_through_a_snapshot(store: ContentStore) -> None:
    path = store.build(filled(store, FILES), generated={"extra.json": b"[]"})
    for name in tree(path):
        assert stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode) == 0o444
    # Bytes are kept once.
    shared = os.path.join(path, "vae/a.bin")
    assert os.path.samefile(shared, store.blob_path(hex_of(b"a")))


def test_generated_files_are_copies_of_their_own(store: ContentStore) -> None:
    snapshot = filled(store, FILES)
    path = store.build(snapshot, generated={"model_index.json": b'{"a":1}', "new/x.json": b"[]"})
    assert tree(path) == {**FILES, "model_index.json": b'{"a":1}', "new/x.json": b"[]"}
    with open(store.blob_path(hex_of(b"{}")), "rb") as file:
        assert file.read() == b"{}"
    assert not os.path.exists(store.blob_path(hex_of(b"[]")))


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b", "UNET/weights.safetensors"])
def test_generated_names_are_checked_like_any_other(store: ContentStore, name: str) -> None:
    snapshot = filled(store, FILES)
    with pytest.raises(ValidationError):
        store.build(snapshot, generated={name: b""})
    assert store.snapshot(snapshot.digest) is None


def chunked(files: Mapping[str, bytes] = {}, **changes: Any) -> dict[str, bytes]:
    """Files of a snapshot whose `big/w.bin` comes in three parts."""
    parts = {f"big/w.bin.part{index:04d}": bytes([index]) * 1000 for index in range(3)}
    record = {
        "original_path": "big/w.bin",
        "total_bytes": 3000,
        "parts": [
            {"path": path, "size_bytes": 1000, "digest": f"blake3:{hex_of(content)}"}
            for path, content in parts.items()
        ],
        **changes,
    }
    kept = {key: value for key, value in record.items() if value is not None}
    return {**parts, "big/w.bin.parts.json": msgspec.json.encode(kept), "c.json": b"{}", **files}


def test_a_file_in_parts_is_joined_in_order(store: ContentStore) -> None:
    path = store.build(filled(store, chunked()))
    assert tree(path) == {"c.json": b"{}", "big/w.bin": bytes(1000) + b"\1" * 1000 + b"\2" * 1000}


def test_the_order_of_the_list_counts(store: ContentStore) -> None:
    parts = msgspec.json.decode(chunked()["big/w.bin.parts.json"])["parts"]
    path = store.build(filled(store, chunked(parts=parts[::-1])))
    assert tree(path)["big/w.bin"] == b"\2" * 1000 + b"\1" * 1000 + bytes(1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_path": None}, "no `original_path`"),
        ({"original_path": 7}, "no `original_path`"),
        ({"original_path": "../../etc/cron.d/x"}, "leaves its directory"),
        ({"original_path": "C:/x"}, "drive letter"),
        ({"original_path": "c.json"}, "another file of that name"),
        ({"original_path": "C.JSON"}, "another file of that name"),
        ({"original_path": "c.json/below"}, "or below it"),
        ({"parts": []}, "no `parts`"),
        ({"parts": "many"}, "no `parts`"),
        ({"parts": [{"path": "x", "size_bytes": 1000}]}, "no `digest`"),
        ({"parts": [{"size_bytes": 1000, "digest": "blake3:../../x"}]}, "is no BLAKE3 digest"),
        ({"parts": [{"size_bytes": 1, "digest": "ab" * 32}]}, "none of the snapshot's files"),
        ({"parts": [{"size_bytes": 9, "digest": hex_of(bytes(1000))}]}, "has 9 bytes"),
        ({"total_bytes": 2999}, "`total_bytes` is 2999, its parts have 3000"),
        ({"total_bytes": None}, "`total_bytes` is None"),
        ({"total_bytes": True}, "`total_bytes` is True"),
    ],
)
def test_a_wrong_list_of_parts_is_refused(
    store: ContentStore, changes: dict[str, Any], message: str
) -> None:
    snapshot = filled(store, chunked(**changes))
    with pytest.raises(ValidationError, match=message):
        store.build(snapshot)
    assert store.snapshot(snapshot.digest) is None
    assert leftovers(store) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"not json", b"\xff\xfe", b'{"parts":'])
def test_a_list_of_parts_that_is_no_object_is_refused(store: ContentStore, content: bytes) -> None:
    snapshot = filled(store, chunked({"big/w.bin.parts.json": content}))
    with pytest.raises(ValidationError, match=r"list of parts 'big/w\.bin\.parts\.json'"):
        store.build(snapshot)


def test_a_damaged_part_is_found_while_joining(store: ContentStore) -> None:
    snapshot = filled(store, chunked())
    bad = store.blob_path(hex_of(b"\1" * 1000))
    with open(bad, "wb") as file:
        file.write(b"\1" * 999 + b"\0")
    os.chmod(bad, 0o444)  # as if it had been verified once
    with pytest.raises(DamagedBlobError, match=r"part .* of 'big/w.bin'"):
        store.build(snapshot)
    assert not os.path.exists(bad)
    put(store, b"\1" * 1000)
    assert len(tree(store.build(snapshot))["big/w.bin"]) == 3000


@pytest.mark.parametrize("without", [("link",), ("link", "symlink")])
def test_disks_without_links_hold_snapshots_too(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    for name in without:
        monkeypatch.setattr(os, name, refuse)
    path = store.build(filled(store, FILES))
    assert tree(path) == FILES
    assert os.path.islink(os.path.join(path, "vae/a.bin")) == (without == ("link",))
    moved = store.root + "-moved"
    os.rename(store.root, moved)
    assert tree(os.path.join(moved, "snapshots", os.path.basename(path))) == FILES


def test_threads_that_want_the_same_build_it_once(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = filled(store, FILES)
    links: list[str] = []
    link = os.link

    def counted(source: str, target: str) -> None:
        links.append(target)
        link(source, target)

    monkeypatch.setattr(os, "link", counted)
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.build(snapshot), range(16)))
    assert len(paths) == 1
    assert len(links) == len(FILES)


def test_a_failed_build_poisons_nothing(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = filled(store, FILES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                store.build(snapshot)
    assert store.snapshot(snapshot.digest) is None
    assert leftovers(store) == []
    assert tree(store.build(snapshot)) == FILES


def test_a_deleted_snapshot_is_built_again(store: ContentStore) -> None:
    import shutil

    snapshot = filled(store, FILES)
    shutil.rmtree(store.build(snapshot))
    assert store.snapshot(snapshot.digest) is None
    assert tree(store.build(snapshot)) == FILES


def test_a_canceled_build_leaves_nothing(store: ContentStore) -> None:
    snapshot = filled(store, FILES)
    token = CancelToken()
    token.cancel()
    with pytest.raises(CanceledError):
        store.build(snapshot, token=token)
    assert store.snapshot(snapshot.digest) is None
    assert leftovers(store) == []


def test_a_canceled_wait_for_another_thread_ends(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = filled(store, FILES)
    started, go = threading.Event(), threading.Event()
    link = os.link

    def slow(*names: str) -> None:
        started.set()
        assert go.wait(60)
        link(*names)

    monkeypatch.setattr(os, "link", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.build, snapshot)
        assert started.wait(60)
        token = CancelToken()
        second = pool.submit(store.build, snapshot, token=token)
        token.cancel()
        with pytest.raises(CanceledError):
            second.result(60)
        go.set()
        assert tree(first.result(60)) == FILES


@pytest.mark.parametrize(
    "digest",
    ["", "ab", "../" * 22, "blake3:" + "g" * 64, "ab" * 32 + "\n", "AB" * 32, "md5:" + "ab" * 32],
)
def test_only_digests_become_paths(store: ContentStore, digest: str) -> None:
    for use in (store.snapshot, store.blob_path, store.lease, lambda x: store.has_blob(x, 1)):
        with pytest.raises(ValidationError, match="is no digest"):
            use(digest)


def test_what_older_workers_keep_is_found(store: ContentStore) -> None:
    path = os.path.join(store.root, "snapshots", "blake3:" + "ab" * 32)
    os.makedirs(path)
    assert store.snapshot("blake3:" + "ab" * 32) == path
    plain = os.path.join(store.root, "snapshots", "cd" * 32)
    os.makedirs(plain)
    assert store.snapshot("blake3:" + "cd" * 32) == plain
