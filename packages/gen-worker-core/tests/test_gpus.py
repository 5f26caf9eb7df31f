"""Which GPU is the current one, seen by a stand-in for torch."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from gen_worker.gpus import CurrentGpu


class Cuda:
    """What `CurrentGpu` uses of `torch.cuda`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.now = 0
        self.was_initialized = True
        self.sets: list[int] = []

    def is_initialized(self) -> bool:
        return self.was_initialized

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        self.was_initialized = True
        return self.now

    def set_device(self, index: int) -> None:
        self.was_initialized = True
        self.now = index
        self.sets.append(index)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda(2)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=made))
    return made


def test_a_gpu_is_current_in_the_block_alone(cuda: Cuda) -> None:
    with CurrentGpu("cuda:1"):
        assert cuda.now == 1
    assert cuda.now == 0


def test_what_the_block_chose_itself_ends_with_it(cuda: Cuda) -> None:
    with CurrentGpu("cuda:0"):
        cuda.set_device(1)
    assert cuda.now == 0


def test_an_error_passes_and_the_gpu_is_given_back(cuda: Cuda) -> None:
    with pytest.raises(LookupError), CurrentGpu("cuda:1"):
        raise LookupError
    assert cuda.now == 0


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:x", "mps:0", "", "cuda:2", "cuda:99"])
def test_other_devices_change_nothing(cuda: Cuda, device: str) -> None:
    with CurrentGpu(device):
        assert cuda.sets == []
    assert cuda.sets == []


def test_cuda_is_initialised_only_where_the_first_gpu_is_wrong(cuda: Cuda) -> None:
    cuda.was_initialized = False
    with CurrentGpu("cuda:0"), CurrentGpu("cuda:2"):
        assert not cuda.was_initialized
    with CurrentGpu("cuda:1"):
        assert cuda.was_initialized


def test_a_gpu_that_is_out_of_order_is_not_its_business(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(index: int) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(cuda, "set_device", fail)
    entered = False
    with CurrentGpu("cuda:1"):
        entered = True
    assert entered


@pytest.mark.parametrize("torch", [None, SimpleNamespace()], ids=["missing", "half imported"])
def test_without_torch_nothing_happens(torch: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    entered = False
    with CurrentGpu("cuda:1"):
        entered = True
    assert entered
