"""The way to a device, with a CPU in its place: other lanes, the same buffers, blocks and order."""

from __future__ import annotations

import os
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError
from gen_worker.models.formats import DamagedSafetensorsError
from gen_worker.models.reader import device, placing, read_files, reading
from gen_worker.models.reader.memory import PAGE
from gen_worker.models.reader.plan import blocks_of

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class LateLane:
    """Copies only when it is waited for, as late as a device may."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Any]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> LateLane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()

    def copy(self, destination: Any, source: Any) -> None:
        self._waiting.append((destination, source))

    def mark(self) -> Callable[[], None]:
        return self.finish

    def finish(self) -> None:
        with self._lock:
            while self._waiting:
                destination, source = self._waiting.pop()
                destination.copy_(source)


class Cuda:
    """Stands in for `torch.device('cuda', 0)`; the tensors are on the CPU."""

    type = "cuda"
    index = 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    place = Cuda()
    ring = device.Ring(3, 2 * PAGE, page_lock=False)
    monkeypatch.setattr(reading, "_device_of", lambda wanted: place)
    monkeypatch.setattr(placing, "process_ring", lambda: ring)
    monkeypatch.setattr(placing, "CudaLane", lambda place, stream: LateLane())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place: None)
    monkeypatch.setattr(device, "blocks_of", lambda file, runs: blocks_of(file, runs, 2 * PAGE))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **options: empty(size, dtype=options["dtype"]))
    return place


def model() -> dict[str, Any]:
    tensors = {f"t{index}": torch.randn(977 * index + 3) for index in range(12)}
    return {**tensors, "odd": torch.arange(5, dtype=torch.int8), "none": torch.zeros(0)}


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "model.safetensors")
    safetensors_torch.save_file(model(), path)
    return path


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("hashed", [True, False])
def test_every_byte_arrives_in_its_place(threads: int, hashed: bool, path: str, cuda: Cuda) -> None:
    (read,) = read_files([path], device=cuda, threads=threads, hashed=hashed)
    theirs = safetensors_torch.load_file(path)
    assert read.method == "delivered"
    assert read.tensors.keys() == theirs.keys()
    assert all(torch.equal(read.tensors[name], theirs[name]) for name in theirs)
    if hashed:
        with open(path, "rb") as file:
            assert read.blake3 == blake3(file.read()).hexdigest()
    base = min(tensor.data_ptr() for tensor in read.tensors.values() if tensor.numel())
    offsets = [tensor.data_ptr() - base for tensor in read.tensors.values() if tensor.numel()]
    assert all(offset % 256 == 0 for offset in offsets)


def test_a_part_arrives_alone(path: str, cuda: Cuda) -> None:
    (read,) = read_files([path], device=cuda, names=["t3", "odd"])
    theirs = safetensors_torch.load_file(path)
    assert all(torch.equal(read.tensors[name], theirs[name]) for name in ("t3", "odd"))
    assert len(read.tensors) == 2


@pytest.mark.parametrize("hashed", [True, False])
def test_a_cancel_gives_all_buffers_back(hashed: bool, path: str, cuda: Cuda) -> None:
    token = CancelToken()

    def progress(done: int, total: int) -> None:
        token.cancel()

    with pytest.raises(CanceledError):
        read_files([path], device=cuda, hashed=hashed, token=token, progress=progress)
    assert read_files([path], device=cuda, hashed=True)[0].blake3  # would wait without them


def test_a_file_that_shrinks_gives_all_buffers_back(
    path: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.path.getsize(path)
    original = device.deliver

    def cut(*args: Any, **options: Any) -> Any:
        os.truncate(path, whole // 2)
        return original(*args, **options)

    monkeypatch.setattr(placing, "deliver", cut)
    with pytest.raises(DamagedSafetensorsError):
        read_files([path], device=cuda, hashed=True)
    monkeypatch.setattr(placing, "deliver", original)
    safetensors_torch.save_file(model(), path)
    assert read_files([path], device=cuda, hashed=True)[0].blake3


def test_readings_at_once_share_the_buffers(path: str, cuda: Cuda) -> None:
    theirs = safetensors_torch.load_file(path)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(read_files, [path], device=cuda, hashed=True) for _ in range(8)]
        for call in calls:
            (read,) = call.result(timeout=60)
            assert all(torch.equal(read.tensors[name], theirs[name]) for name in theirs)


def test_without_page_locking_the_ring_is_there_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(device, "_ring", None)
    monkeypatch.setattr(device, "_SLOTS", 2)
    assert device.process_ring() is device.process_ring()
    assert len([record for record in caplog.records if "take longer" in record.message]) == 1


class Opened:
    """What both libraries' `safe_open` returns, as far as it is used."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        for tensor in self._tensors.values():  # the library's buffer is used again
            tensor.fill_(0)

    def tensors(self) -> list[tuple[str, Any]]:
        return list(self._tensors.items())

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> Any:
        return self._tensors[name]


def library(name: str, opened: Callable[[str], Any]) -> types.ModuleType:
    module: Any = types.ModuleType(name)

    def safe_open(paths: list[str], *, framework: str, device: object) -> Any:
        assert framework == "pt"
        return opened(paths[0])

    def fastsafe_open(filenames: list[str], *, framework: str, device: str, nogds: bool) -> Any:
        assert (framework, nogds) == ("pt", True)
        return opened(filenames[0])

    module.safe_open, module.fastsafe_open = safe_open, fastsafe_open
    return module  # type: ignore[no-any-return]


def read_by_the_library(path: str) -> Opened:
    return Opened({name: t.clone() for name, t in safetensors_torch.load_file(path).items()})


def broken(path: str) -> Opened:
    raise RuntimeError("no io_uring here")


@pytest.mark.parametrize("name", ["instanttensor", "fastsafetensors"])
def test_an_installed_library_reads_and_its_memory_is_not_kept(
    name: str, path: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, library(name, read_by_the_library))
    seen: list[tuple[int, int]] = []
    (read,) = read_files([path], device=cuda, progress=lambda *count: seen.append(count))
    theirs = safetensors_torch.load_file(path)
    assert read.method == name
    assert all(torch.equal(read.tensors[name], theirs[name]) for name in theirs)
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_library_that_fails_is_done_without(
    path: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("instanttensor", "fastsafetensors"):
        monkeypatch.setitem(sys.modules, name, library(name, broken))
    assert read_files([path], device=cuda)[0].method == "delivered"
    assert [record.message for record in caplog.records if "no io_uring" in record.message]
    with pytest.raises(RuntimeError, match="io_uring"):
        read_files([path], device=cuda, backend="instanttensor")


def test_a_library_that_reads_something_else_is_not_believed(
    path: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Opened({name: torch.zeros(1) for name in model()})
    monkeypatch.setitem(sys.modules, "instanttensor", library("instanttensor", lambda path: wrong))
    assert read_files([path], device=cuda)[0].method == "delivered"
    with pytest.raises(DamagedSafetensorsError, match="its header says"):
        read_files([path], device=cuda, backend="instanttensor")


def test_out_of_memory_is_left_to_the_caller(
    path: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> Opened:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(sys.modules, "instanttensor", library("instanttensor", full))
    with pytest.raises(torch.OutOfMemoryError):
        read_files([path], device=cuda)


def test_another_kind_of_device_gets_one_copy_for_each_file(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (read,) = read_files([path], device="meta")
    assert {tensor.device.type for tensor in read.tensors.values()} == {"meta"}
    assert read.tensors["odd"].shape == (5,)
