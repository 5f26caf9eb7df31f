"""A model on NFS is copied to the local disk once, by its digest; any other stays where it is."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, ValidationError
from gen_worker.models.settings import load_model_settings
from gen_worker.models.store import (
    DiskFullError,
    LocalModelCache,
    SnapshotNotFoundError,
    Volume,
    localize,
    read_mountinfo,
    volume_of,
)

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = "ab" * 32, "cd" * 32
FILES = {"model_index.json": b"{}", "unet/w.safetensors": b"w" * 1000}

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /mnt rw - tmpfs tmpfs rw
31 30 0:41 / /mnt/models rw,relatime shared:7 master:2 - nfs4 server:/secret/export rw,vers=4.2
32 30 0:42 / /mnt/old rw - nfs server:/old rw
33 30 0:43 / /mnt/my\\040disk\\134\\303\\274 rw - xfs /dev/sd\\040b rw
34 30 0:44 / /mnt/hidden rw - nfs4 a:/b rw
35 30 0:45 / /mnt/hidden rw - btrfs /dev/sdc rw
nonsense
36 30 0:46 / /mnt/broken rw -
"""


@pytest.mark.parametrize(
    ("path", "mount_point", "fstype", "backend"),
    [
        ("/srv/x", "/", "ext4", "local"),
        ("/mnt", "/mnt", "tmpfs", "local"),
        ("/mnt/models", "/mnt/models", "nfs4", "nfs"),
        ("/mnt/models/a/b", "/mnt/models", "nfs4", "nfs"),
        ("/mnt/models/../old/b", "/mnt/old", "nfs", "nfs"),
        ("/mnt/models2", "/mnt", "tmpfs", "local"),
        ("/mnt/my disk\\ü/a", "/mnt/my disk\\ü", "xfs", "local"),
        ("/mnt/hidden/a", "/mnt/hidden", "btrfs", "local"),
        ("/mnt/broken", "/mnt", "tmpfs", "local"),
    ],
)
def test_the_longest_mount_point_counts(
    path: str, mount_point: str, fstype: str, backend: str
) -> None:
    volume = volume_of(path, MOUNTS)
    assert (volume.mount_point, volume.fstype, volume.backend) == (mount_point, fstype, backend)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/models/a")
    assert volume_of(tmp_path / "link", MOUNTS).is_network


def test_an_unknown_system_is_local() -> None:
    volume = volume_of("/a", "")
    assert (volume.backend, volume.fstype) == ("local", "")


def test_a_volume_key_names_the_volume_and_not_its_source() -> None:
    models = volume_of("/mnt/models", MOUNTS)
    assert models.key == volume_of("/mnt/models/x/y", MOUNTS).key
    assert models.key != volume_of("/mnt/old", MOUNTS).key
    assert Volume("nfs", "h:/x", "/m").key == sha256(b"nfs|h:/x|/m").hexdigest()


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="no /proc")
def test_this_machine_has_a_root() -> None:
    assert volume_of("/", read_mountinfo()).mount_point == "/"


def tree(path: str) -> dict[str, bytes]:
    found = {}
    for directory, _, names in os.walk(path):
        for name in names:
            full = os.path.join(directory, name)
            with open(full, "rb") as file:
                found[os.path.relpath(full, path)] = file.read()
    return found


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "nfs" / "snapshots" / ONE
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


@pytest.fixture
def cache(tmp_path: Path) -> LocalModelCache:
    return LocalModelCache(tmp_path / "local", 1.0)


def mounts_of(tmp_path: Path, *, local: str = "ext4") -> str:
    return (
        f"1 0 0:1 / {tmp_path}/nfs rw - nfs4 server:/models rw\n"
        f"2 0 0:2 / {tmp_path}/local rw - {local} /dev/vda rw\n"
    )


def test_a_model_on_nfs_is_copied_once(tmp_path: Path, source: str, cache: LocalModelCache) -> None:
    first = localize(source, ONE, cache, mountinfo=mounts_of(tmp_path))
    assert first.path.startswith(str(tmp_path / "local"))
    assert tree(first.path) == FILES
    assert (first.disk_fstype, first.disk_backend, first.localized) == ("nfs4", "nfs", True)
    assert first.bytes_copied == 1002
    again = localize(source, f"blake3:{ONE}", cache, mountinfo=mounts_of(tmp_path))
    assert again == first._replace(nfs_to_local_copy_ms=0, bytes_copied=0)


@pytest.mark.parametrize("is_nfs", [True, False])
def test_a_model_stays_where_copying_gains_nothing(
    tmp_path: Path, source: str, cache: LocalModelCache, is_nfs: bool
) -> None:
    mounts = mounts_of(tmp_path, local="nfs") if is_nfs else ""
    found = localize(source, ONE, cache, mountinfo=mounts)
    assert (found.path, found.localized, found.bytes_copied) == (source, False, 0)
    assert not os.path.exists(tmp_path / "local")


def test_a_model_stays_where_it_does_not_fit(tmp_path: Path, source: str) -> None:
    small = LocalModelCache(tmp_path / "local", 0.5 / 1024**2)
    found = localize(source, ONE, small, mountinfo=mounts_of(tmp_path))
    assert (found.path, found.localized) == (source, False)
    with pytest.raises(DiskFullError):
        small.cache_model_blocking(ONE, source)


@pytest.mark.claims("WORKER_LOCAL_MODEL_CACHE_DIR", "WORKER_LOCAL_CACHE_GB")
def test_the_directory_and_limit_of_the_settings(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_LOCAL_MODEL_CACHE_DIR", str(tmp_path / "local"))
    monkeypatch.setenv("WORKER_LOCAL_CACHE_GB", "2")
    settings = load_model_settings()
    cache = LocalModelCache(settings.local_copy_dir, settings.local_copy_gb)
    assert cache.cache_model_blocking(ONE, source).startswith(str(tmp_path / "local"))
    assert cache.get_stats()["max_cache_size_gb"] == 2.0


def test_copies_are_kept_by_digest(source: str, cache: LocalModelCache) -> None:
    assert not cache.is_cached(ONE)
    assert cache.get_cached_path(ONE) is None
    path, copied = cache.cache_model_blocking_with_stats(ONE, source)
    assert copied == 1002
    assert cache.cache_model_blocking_with_stats(ONE, source) == (path, None)
    assert cache.is_cached(ONE)
    assert not cache.is_cached(TWO)
    assert cache.get_cached_path(ONE) == path == cache.cache_model_blocking(ONE, source)
    assert asyncio.run(cache.cache_model(ONE, source)) == path
    for name in FILES:
        assert stat.S_IMODE(os.stat(os.path.join(path, name)).st_mode) == 0o444
    stats = cache.get_stats()
    assert stats == {
        "cached_models": [ONE],
        "cache_size_gb": 1002 / 1024**3,
        "max_cache_size_gb": 1.0,
        "prefetching": [],
    }


def test_a_copy_is_made_of_what_links_lead_to(
    tmp_path: Path, source: str, cache: LocalModelCache
) -> None:
    (tmp_path / "blob").write_bytes(b"linked")
    os.symlink(tmp_path / "blob", os.path.join(source, "link.bin"))
    path = cache.cache_model_blocking(ONE, source)
    assert tree(path) == {**FILES, "link.bin": b"linked"}
    assert not os.path.islink(os.path.join(path, "link.bin"))


def test_the_least_recently_used_copy_goes(tmp_path: Path, source: str) -> None:
    cache = LocalModelCache(tmp_path / "local", 2500 / 1024**3)
    for digest in (ONE, TWO):
        cache.cache_model_blocking(digest, source)
    records = tmp_path / "local" / "state" / "records"
    os.utime(records / ONE, (1000, 1000))
    os.utime(records / TWO, (500, 500))
    assert cache.get_cached_path(TWO) is not None
    with cache.lease(TWO):
        cache.cache_model_blocking("ef" * 32, source)
    assert [cache.is_cached(x) for x in (ONE, TWO, "ef" * 32)] == [False, True, True]


def test_threads_copy_once(source: str, cache: LocalModelCache) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: cache.cache_model_blocking_with_stats(ONE, source), range(8))
        )
    assert sorted(copied or 0 for _, copied in found) == [0] * 7 + [1002]


def test_prefetching(source: str, cache: LocalModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    copy = cache.cache_model_blocking

    def slow(digest: str, source: str) -> str:
        assert go.wait(60)
        return copy(digest, source)

    monkeypatch.setattr(cache, "cache_model_blocking", slow)
    future = cache.start_prefetch(ONE, source)
    assert cache.start_prefetch(ONE, source) is future
    assert cache.get_stats()["prefetching"] == [ONE]
    go.set()
    assert tree(future.result(60)) == FILES


def test_a_prefetch_that_fails_says_so_and_can_be_tried_again(
    tmp_path: Path, source: str, cache: LocalModelCache
) -> None:
    future = cache.start_prefetch(ONE, str(tmp_path / "absent"))
    with pytest.raises(SnapshotNotFoundError, match="fetch it again"):
        future.result(60)
    assert tree(cache.cache_model_blocking(ONE, source)) == FILES


def test_a_source_that_goes_away_leaves_nothing(
    source: str, cache: LocalModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink("/nowhere/at/all", os.path.join(source, "dangling"))
    with pytest.raises(SnapshotNotFoundError, match="lease it while it is copied"):
        cache.cache_model_blocking(ONE, source)
    assert not cache.is_cached(ONE)


def test_a_canceled_copy_leaves_nothing(
    tmp_path: Path, source: str, cache: LocalModelCache
) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CanceledError):
        cache.cache_model_blocking(ONE, source, token)
    assert not cache.is_cached(ONE)
    assert os.listdir(tmp_path / "local" / "state" / "work") == []


def test_only_digests_are_names(source: str, cache: LocalModelCache) -> None:
    with pytest.raises(ValidationError, match="is no digest"):
        cache.cache_model_blocking("../../x", source)
