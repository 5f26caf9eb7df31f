"""Room is made before a byte moves: by what nobody needs, then by last use; what is used stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, ResourceError, classify
from gen_worker.models.settings import load_model_settings
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.store import (
    ContentStore,
    DiskFullError,
    MissingBlobsError,
    ReadOnlyStoreError,
    SnapshotInUseError,
    SnapshotNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024**2


class Disk:
    """A disk of a size of its own: what the store's directory takes counts."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        self.root = root
        self.size_bytes = size_bytes

    def usage(self, _: str) -> Any:
        used, seen = 0, set()
        for directory, _names, names in os.walk(self.root):
            for name in names:
                found = os.lstat(os.path.join(directory, name))
                used += 0 if found.st_ino in seen else found.st_size
                seen.add(found.st_ino)
        return shutil._ntuple_diskusage(self.size_bytes, used, self.size_bytes - used)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path, 100_000)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


@pytest.fixture
def store(tmp_path: Path, disk: Disk) -> ContentStore:
    return ContentStore(tmp_path / "cas", reserve_bytes=0)


def put(store: ContentStore, content: bytes, *, suffix: str = "", age_s: float = 3600) -> str:
    """Put a verified blob, or what a download left of one, as if that was a while ago."""
    path = store.blob_path(blake3(content).hexdigest()) + suffix
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, 0o444)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def described(*contents: bytes) -> Snapshot:
    return snapshot_of(
        SnapshotFile(path=f"{i}.bin", size_bytes=len(text), blake3=blake3(text).hexdigest())
        for i, text in enumerate(contents)
    )


def built(store: ContentStore, *contents: bytes, last_use: float = 1000.0) -> str:
    for content in contents:
        put(store, content)
    digest = os.path.basename(store.build(described(*contents)))
    os.utime(os.path.join(store.root, "state", "records", digest), (last_use, last_use))
    return digest


def present(store: ContentStore) -> set[str]:
    return {snapshot.digest for snapshot in store.snapshots()}


def blobs(store: ContentStore) -> int:
    return store.usage().blobs


def test_nothing_goes_while_there_is_room(store: ContentStore) -> None:
    digest = built(store, b"a" * 1000)
    put(store, b"loose" * 100)
    store.make_room(90_000)
    assert present(store) == {digest}
    assert blobs(store) == 2


def test_what_nobody_needs_goes_first(store: ContentStore) -> None:
    digest = built(store, b"a" * 30_000)
    loose = put(store, b"b" * 30_000)
    store.make_room(50_000)
    assert present(store) == {digest}
    assert not os.path.exists(loose)


def test_then_what_a_dead_download_left(store: ContentStore) -> None:
    digest = built(store, b"a" * 30_000)
    part = put(store, b"b" * 30_000, suffix=".part")
    store.make_room(50_000)
    assert present(store) == {digest}
    assert not os.path.exists(part)


def test_then_snapshots_by_last_use(store: ContentStore) -> None:
    old = built(store, b"a" * 20_000, last_use=1000)
    used = built(store, b"b" * 20_000, last_use=900)
    new = built(store, b"c" * 20_000, last_use=2000)
    assert store.snapshot(used) is not None
    store.make_room(50_000)
    assert present(store) == {used, new}
    store.make_room(70_000)
    assert present(store) == {used}
    assert old not in present(store)


def test_shared_blobs_stay_as_long_as_one_needs_them(store: ContentStore) -> None:
    built(store, b"s" * 20_000, b"a" * 20_000, last_use=1000)
    other = built(store, b"s" * 20_000, b"b" * 20_000, last_use=2000)
    store.make_room(59_000)
    assert present(store) == {other}
    with open(os.path.join(store.root, "snapshots", other, "0.bin"), "rb") as file:
        assert file.read() == b"s" * 20_000
    assert blobs(store) == 2


def test_used_and_pinned_snapshots_stay(store: ContentStore) -> None:
    leased = built(store, b"a" * 20_000, last_use=1)
    pinned = built(store, b"b" * 20_000, last_use=2)
    idle = built(store, b"c" * 20_000, last_use=3)
    store.pin(pinned)
    with ContentStore(store.root).lease(leased):
        store.make_room(50_000)
        assert present(store) == {leased, pinned}
        with pytest.raises(DiskFullError):
            store.make_room(70_000)
        assert present(store) == {leased, pinned}
    store.unpin(pinned)
    store.make_room(90_000)
    assert present(store) == set()
    assert idle not in present(store)


def test_a_disk_that_is_too_small_loses_nothing(store: ContentStore) -> None:
    digest = built(store, b"a" * 20_000)
    with pytest.raises(DiskFullError, match="no room for 200000 bytes") as caught:
        store.make_room(200_000)
    error = caught.value
    assert (error.needed_bytes, error.path) == (200_000, store.root)
    assert 70_000 < error.free_bytes < 80_000
    assert "20000 bytes can be evicted" in str(error)
    assert "gen-worker models rm" in str(error)
    assert present(store) == {digest}
    assert isinstance(error, ResourceError)
    assert classify(error).error_type == "resource"


def test_the_reserve_stays_free(tmp_path: Path, disk: Disk) -> None:
    store = ContentStore(tmp_path / "cas", reserve_bytes=60_000)
    store.make_room(39_000)
    with pytest.raises(DiskFullError, match="60000 bytes stay free"):
        store.make_room(41_000)


def test_a_budget_is_kept(tmp_path: Path, disk: Disk) -> None:
    store = ContentStore(tmp_path / "cas", reserve_bytes=0, budget_bytes=50_000)
    old = built(store, b"a" * 20_000, last_use=1)
    new = built(store, b"b" * 20_000, last_use=2)
    store.make_room(10_000)
    assert present(store) == {old, new}
    store.make_room(20_000)
    assert present(store) == {new}
    with pytest.raises(DiskFullError, match="models take 20000 bytes of 50000 bytes"):
        store.make_room(50_001)


@pytest.mark.claims("GEN_WORKER_CACHE_GB")
def test_the_budget_of_the_settings(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEN_WORKER_CACHE_GB", str(50_000 / 1024**3))
    budget_bytes = round(load_model_settings().cache_gb * 1024**3)
    store = ContentStore(tmp_path / "cas", reserve_bytes=0, budget_bytes=budget_bytes)
    digest = built(store, b"a" * 20_000)
    store.make_room(30_000)
    assert present(store) == {digest}
    store.make_room(40_000)
    assert present(store) == set()


def test_a_file_that_does_not_fit_is_refused_before_it_is_read(
    store: ContentStore, tmp_path: Path, disk: Disk
) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(60_000)
    with pytest.raises(DiskFullError, match="no room for 60000 bytes"):
        store.add_file(str(tmp_path / "large"))
    assert not os.path.exists(store.root)
    disk.size_bytes = 200_000
    assert store.add_file(str(tmp_path / "large"))[1] == 60_000


def test_recent_blobs_and_live_downloads_stay(store: ContentStore) -> None:
    fresh = put(store, b"a" * 40_000, age_s=1)
    live = put(store, b"b" * 40_000, suffix=".part", age_s=1)
    with pytest.raises(DiskFullError):
        store.make_room(50_000)
    assert os.path.exists(fresh)
    assert os.path.exists(live)


def test_reserved_blobs_and_room_are_respected(store: ContentStore) -> None:
    have, want = b"a" * 20_000, b"b" * 40_000
    path = put(store, have)
    with ContentStore(store.root, reserve_bytes=0).reserve(described(have, want)):
        with pytest.raises(DiskFullError):
            store.make_room(50_000)  # 80,000 are free, 40,000 of them promised
        assert os.path.exists(path)
        put(store, want, suffix=".part", age_s=7200)
        store.make_room(35_000)  # what was written already is not promised any more
        assert os.path.exists(path)
    store.make_room(90_000)
    assert not os.path.exists(path)


def test_a_snapshot_that_does_not_fit_is_refused_before_a_byte_moves(store: ContentStore) -> None:
    with pytest.raises(DiskFullError), store.reserve(described(b"a" * 60_000, b"b" * 60_000)):
        pytest.fail("there is no room")
    with store.reserve(described(b"a" * 60_000)):
        pass


def test_joining_parts_needs_room_too(store: ContentStore) -> None:
    part = b"p" * 60_000
    listed = snapshot_of(
        SnapshotFile(path=path, size_bytes=len(text), blake3=blake3(text).hexdigest())
        for path, text in [("a.parts.json", b"{}"), ("a.part0000", part)]
    )
    with pytest.raises(DiskFullError, match="no room for 120002 bytes"), store.reserve(listed):
        pytest.fail("there is no room")


def test_of_two_that_want_the_same_one_fetches(store: ContentStore) -> None:
    content = b"x" * 1000
    snapshot, fetched, both = described(content), [], threading.Barrier(2)

    def fetch(mine: ContentStore) -> str:
        both.wait(60)
        with mine.reserve(snapshot):
            for _ in mine.missing(snapshot):
                fetched.append(put(mine, content))
            return mine.build(snapshot)

    with ThreadPoolExecutor(2) as pool:
        paths = set(pool.map(fetch, [store, ContentStore(store.root, reserve_bytes=0)]))
    assert len(paths) == len(fetched) == 1


def test_the_second_goes_on_when_the_first_gives_up(store: ContentStore) -> None:
    snapshot = described(b"x")
    with ThreadPoolExecutor(1) as pool:
        with store.reserve(snapshot):
            token = CancelToken()
            waiting = pool.submit(_enter, store, snapshot, token)
            token.cancel()
            with pytest.raises(CanceledError):
                waiting.result(60)
            second = pool.submit(_enter, store, snapshot, None)
        assert second.result(60) == "entered"


def _enter(store: ContentStore, snapshot: Snapshot, token: CancelToken | None) -> str:
    with store.reserve(snapshot, token=token):
        return "entered"


def test_collect_removes_what_nobody_needs(store: ContentStore) -> None:
    digest = built(store, b"a" * 1000)
    put(store, b"loose" * 100)
    put(store, b"new" * 100, age_s=1)
    put(store, b"given up" * 100, suffix=".part", age_s=2 * 86400)
    put(store, b"resumable" * 100, suffix=".part")
    report = store.collect()
    assert (report.snapshots, report.blobs) == ((), 1)
    assert report.freed_bytes >= 500
    assert present(store) == {digest}
    assert blobs(store) == 2
    report = store.collect(0)
    assert report.snapshots == (digest,)
    assert present(store) == set()
    assert blobs(store) == 1  # the new one


def test_what_dead_processes_left_is_collected(store: ContentStore) -> None:
    digest = built(store, b"a" * 1000)
    record = os.path.join(store.root, "state", "records", "cd" * 32)
    building = os.path.join(store.root, "snapshots", "ef" * 32 + ".building")
    work = os.path.join(store.root, "state", "work", "host~boot~1~2~3~nonce", "tree")
    live = os.path.join(store.root, "snapshots", "ab" * 32 + ".building")
    for path in (building, work, live):
        os.makedirs(path)
    with open(record, "w") as file:
        file.write("{}")
    for path in (record, building, os.path.dirname(work)):
        os.utime(path, (0, 0))
    store.collect()
    assert not any(map(os.path.exists, (record, building, os.path.dirname(work))))
    assert os.path.exists(live)
    assert present(store) == {digest}


def test_remove(store: ContentStore) -> None:
    digest, other = built(store, b"a" * 1000, b"s"), built(store, b"s")
    store.pin(digest)
    with store.lease(digest), pytest.raises(SnapshotInUseError, match="end it and remove it"):
        store.remove(digest)
    assert store.remove(f"blake3:{digest}") == 1000
    assert present(store) == {other}
    assert blobs(store) == 1
    with pytest.raises(SnapshotNotFoundError):
        store.remove(digest)
    built(store, b"a" * 1000, b"s")
    assert not any(snapshot.is_pinned for snapshot in store.snapshots())


def test_listing_and_usage(store: ContentStore) -> None:
    digest = built(store, b"a" * 1000, b"b" * 500, last_use=77.0)
    put(store, b"loose" * 100)
    put(store, b"started", suffix=".part")
    store.pin(digest)
    with store.lease(digest):
        (snapshot,) = store.snapshots()
    assert (snapshot.digest, snapshot.size_bytes, snapshot.files) == (digest, 1500, 2)
    assert (snapshot.last_use, snapshot.own_bytes) == (77.0, 0)
    assert snapshot.is_leased
    assert snapshot.is_pinned
    assert not snapshot.is_damaged
    assert os.path.isdir(snapshot.path)
    usage = store.usage()
    assert (usage.snapshots, usage.blobs, usage.blob_bytes) == (1, 3, 2000)
    assert (usage.loose_bytes, usage.own_bytes) == (500, 0)
    assert usage.used_bytes == 2000 + usage.partial_bytes
    assert usage.free_bytes > 0


def test_trees_of_other_workers_are_counted_and_evicted(store: ContentStore) -> None:
    linked, copied = put(store, b"a" * 20_000), b"c" * 10_000
    tree = os.path.join(store.root, "snapshots", "ab" * 32)
    os.makedirs(os.path.join(tree, "sub"))
    os.link(linked, os.path.join(tree, "sub", "a"))
    os.symlink(put(store, b"b" * 20_000), os.path.join(tree, "b"))
    with open(os.path.join(tree, "c"), "wb") as file:
        file.write(copied)
    (snapshot,) = store.snapshots()
    assert (snapshot.size_bytes, snapshot.own_bytes, snapshot.files) == (50_000, 10_000, 3)
    store.collect()
    assert blobs(store) == 2
    store.make_room(90_000)
    assert present(store) == set()
    assert blobs(store) == 0


def test_building_without_a_reservation_may_lose_a_blob_and_says_so(store: ContentStore) -> None:
    content = b"x" * 1000
    path = put(store, content)
    store.collect()
    assert not os.path.exists(path)
    with pytest.raises(MissingBlobsError):
        store.build(described(content))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB, where this process may mount one."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this process may not mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_really_full_disk(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContentStore(small_disk / "cas", reserve_bytes=0)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (3 * MIB))
    with pytest.raises(DiskFullError, match=r"no room for 3\.0 MiB"):
        store.add_file(str(large))
    with monkeypatch.context() as patch:  # a disk that fills up meanwhile
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * MIB))
        with pytest.raises(DiskFullError, match=r"the disk of .* is full"):
            store.add_file(str(large))
    assert store.usage().used_bytes == 0
    with pytest.raises(DiskFullError, match=r"no room for 3\.0 MiB"):
        store.make_room(3 * MIB)
    large.write_bytes(b"x" * MIB)
    digest, size = store.add_file(str(large))
    snapshot = snapshot_of([SnapshotFile(path="a", size_bytes=size, blake3=digest)])
    built = store.build(snapshot)
    assert os.path.getsize(os.path.join(built, "a")) == MIB
    with pytest.raises(DiskFullError), store.lease(snapshot.digest):
        store.make_room(MIB + MIB // 2)
    store.make_room(MIB + MIB // 2)
    assert store.snapshot(snapshot.digest) is None


def test_a_disk_that_fills_up_while_a_snapshot_is_built(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    content = b"x" * 1000
    put(store, content)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(DiskFullError, match="TENSORHUB_CACHE_DIR"):
            store.build(described(content))
    assert store.build(described(content))


def test_a_cache_is_probed(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "cas")
    store.check_writable()
    assert os.listdir(store.root) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReadOnlyStoreError, match=r"'.*file/cas' cannot be written \(Not a dir"):
        ContentStore(tmp_path / "file" / "cas").check_writable()


def test_a_cache_whose_place_is_taken_by_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    snapshot = described(b"x")
    for root in (tmp_path / "file", tmp_path / "file" / "cas"):
        store = ContentStore(root, reserve_bytes=0)
        assert store.snapshot(snapshot.digest) is None
        with pytest.raises(ReadOnlyStoreError, match="set TENSORHUB_CACHE_DIR"):
            store.add_file(__file__)
        with (
            pytest.raises(ReadOnlyStoreError, match="set TENSORHUB_CACHE_DIR"),
            store.reserve(snapshot),
        ):
            pytest.fail("there is no room in a file")


def test_a_read_only_cache_is_read(small_disk: Path) -> None:
    store = ContentStore(small_disk / "cas", reserve_bytes=0)
    digest = built(store, b"x" * 100)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = ContentStore(small_disk / "cas", reserve_bytes=0)
    path = store.snapshot(digest)
    assert path is not None
    with store.lease(digest) as leased:
        assert leased == path
    assert len(store.snapshots()) == 1
    with pytest.raises(ReadOnlyStoreError, match="cannot be written"):
        store.check_writable()
    for write in (
        lambda: store.build(described(b"y")),
        lambda: store.pin(digest),
        lambda: store.remove(digest),
        lambda: store.add_file(__file__),
        lambda: store.collect(0),
    ):
        with pytest.raises(ReadOnlyStoreError, match="make it writable or set TENSORHUB_CACHE_DIR"):
            write()
