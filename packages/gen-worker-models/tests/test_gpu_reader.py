"""Files reach a GPU byte by byte as they are, through page-locked memory of exact size."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.models.reader import read_files, read_tensors

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"w{index}": torch.randn(3_000_000 + index, generator=generator) for index in range(9)
    }
    tensors["half"] = tensors["w0"].to(torch.bfloat16)
    tensors["fp8"] = tensors["w1"][:1001].to(torch.float8_e4m3fn)
    safetensors_torch.save_file(tensors, path)
    return path


def same(ours: dict[str, Any], path: str, device_type: str) -> None:
    theirs = safetensors_torch.load_file(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].device.type == device_type
        left, right = ours[name].cpu().view(torch.uint8), tensor.view(torch.uint8)
        assert torch.equal(left, right), name


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("cold", [True, False])
def test_every_byte_arrives(hashed: bool, cold: bool, path: str) -> None:
    if cold:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    busy = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    for _ in range(50):
        busy.fill_(1)  # work that is still under way on the memory that is handed out next
    del busy
    (read,) = read_files([path], device="cuda", hashed=hashed, backend="own")
    same(read.tensors, path, "cuda")
    assert all(tensor.data_ptr() % 256 == 0 for tensor in read.tensors.values())
    if hashed:
        with open(path, "rb") as file:
            assert read.blake3 == blake3(file.read()).hexdigest()


def test_page_locked_memory_is_seen_by_cuda_and_given_back(path: str) -> None:
    (read,) = read_files([path], page_locked=True)
    assert read.memory is not None
    assert read.memory.is_page_locked
    assert all(tensor.is_pinned() for tensor in read.tensors.values())
    moved = {name: tensor.to("cuda", non_blocking=True) for name, tensor in read.tensors.items()}
    torch.cuda.synchronize()
    same(moved, path, "cuda")
    same(read.copied_to("cuda"), path, "cuda")
    read.memory.page_unlock()
    assert not read.tensors["w0"].is_pinned()
    same(read.tensors, path, "cpu")


def test_installed_libraries_read_the_same(path: str) -> None:
    same(read_tensors(path, device="cuda"), path, "cuda")


def test_a_memory_of_the_device_is_one_for_each_file(path: str) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    tensors = read_tensors(path, device="cuda", backend="own")
    taken = torch.cuda.memory_allocated() - before
    assert taken <= os.path.getsize(path) + (2 << 20)
    del tensors
    assert torch.cuda.memory_allocated() == before
