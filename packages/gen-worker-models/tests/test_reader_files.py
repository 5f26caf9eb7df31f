"""Bytes come from the disk as they are there, whether the page cache has them or not."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.formats import DamagedSafetensorsError, WrongFormatError
from gen_worker.models.reader import page_cache
from gen_worker.models.reader.memory import PAGE, HostMemory
from gen_worker.models.reader.page_cache import PageCache, populate
from gen_worker.models.reader.source_files import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 3_000_001


@pytest.fixture
def path(tmp_path: Path) -> str:
    text = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (SIZE, SIZE)
    path = tmp_path / "model.safetensors"
    data = random.Random(0).randbytes(SIZE)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def evict(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("has_direct", [True, False])
@pytest.mark.parametrize("cold", [True, False])
def test_bytes_are_those_of_the_file(
    has_direct: bool,
    cold: bool,
    path: str,
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = content(path)
    if cold:
        evict(path)
    if not has_direct:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    source = open_source(path, stack)
    memory = HostMemory(len(whole))
    with memoryview(memory) as buffer:
        source.read(buffer[:PAGE], 0)
        source.read(buffer[PAGE:], PAGE)
    assert memory[: len(whole)] == whole
    assert source.header.size_bytes == len(whole)


class FailingDisk:
    """Reads fail as told; the rest is the real thing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: dict[int, int] = {}
        self.calls: list[int] = []
        self._read = os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, descriptor: int, buffers: list[Any], offset: int) -> int:
        self.calls.append(descriptor)
        if descriptor in self.failures:
            code = self.failures[descriptor]
            raise OSError(code, os.strerror(code))
        return self._read(descriptor, buffers, offset)


def test_a_file_system_that_cannot_read_directly_is_read_otherwise(
    path: str, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(path)
    evict(path)
    source = open_source(path, stack)
    if source.direct is None:
        pytest.skip("this file system cannot read past the page cache")
    disk = FailingDisk(monkeypatch)
    disk.failures[source.direct] = errno.EINVAL
    memory = HostMemory(len(whole))
    with memoryview(memory) as buffer:
        source.read(buffer, 0)
    assert memory[: len(whole)] == whole
    assert disk.calls[0] == source.direct
    assert source.descriptor in disk.calls


def test_a_broken_disk_is_a_typed_error(
    path: str, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(path, stack)
    disk = FailingDisk(monkeypatch)
    disk.failures[source.descriptor] = errno.EIO
    with pytest.raises(ArtifactTransferError, match="check the disk") as caught:
        source.read(memoryview(bytearray(PAGE)), 0)
    assert caught.value.phase == "read"


def test_a_file_that_shrinks_while_it_is_read_is_damaged(
    path: str, stack: contextlib.ExitStack
) -> None:
    source = open_source(path, stack)
    os.truncate(path, 100_000)
    with pytest.raises(DamagedSafetensorsError, match="while it was read"):
        source.read(memoryview(bytearray(SIZE)), 0)


def test_a_pipe_is_refused_unread(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(WrongFormatError):
        open_source(str(tmp_path / "model.safetensors"), stack)


@pytest.mark.parametrize("way", ["cachestat", "mincore"])
def test_the_page_cache_is_known(way: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "mincore":
        monkeypatch.setattr(page_cache, "_cachestat", lambda *range_: None)
    whole = content(path)
    with open(path, "rb") as file:
        cache = PageCache(file.fileno(), len(whole))
        warm = cache.fraction(0, len(whole))
        if warm is None:
            pytest.skip("this kernel does not tell")
        assert warm == 1.0
        assert cache.fraction(5000, 5000) == 1.0
        assert cache.fraction(PAGE, 10**12) == 1.0
        evict(path)
        if cache.fraction(0, len(whole)) != 0.0:
            pytest.skip("this file system keeps its pages")
        os.pread(file.fileno(), 1, len(whole) - 1)
        assert 0 < (cache.fraction(0, len(whole)) or 0) <= 1
        assert cache.fraction(len(whole) - 1, len(whole)) == 1.0


def test_of_a_strangers_file_the_kernel_says_nothing_true(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "_cachestat", lambda *range_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with open(path, "rb") as file:
        assert PageCache(file.fileno(), SIZE).fraction(0, SIZE) is None


def test_pages_of_a_mapping_are_made_present(path: str) -> None:
    evict(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
        populate(view, 5, SIZE)
        assert PageCache(file.fileno(), SIZE).fraction(0, SIZE) in (None, 1.0)
        assert view[:] == content(path)


@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1, 5 << 20])
def test_memory_is_as_large_as_asked_in_pages(size: int) -> None:
    memory = HostMemory(size)
    assert len(memory) == max(-(-size // PAGE) * PAGE, PAGE)
    assert not memory.is_page_locked
    memory.page_unlock()
    memory[:1] = b"x"


def test_memory_that_was_locked_is_unlocked_once_when_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gen_worker.models.reader import memory as memory_module

    calls: list[object] = []

    def lock(address: int, size_bytes: int) -> object:
        calls.append(size_bytes)
        return lambda: calls.append("unlocked")

    monkeypatch.setattr(memory_module, "page_lock", lock)
    memory = HostMemory(PAGE)
    memory.page_lock()
    memory.page_lock()
    assert memory.is_page_locked
    del memory
    assert calls == [PAGE, "unlocked"]
