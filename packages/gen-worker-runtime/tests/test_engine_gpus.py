"""What `.cuda()` means in a call: the GPU that the call was given. Seen by a stand-in for torch."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference, inference_function, invocable
from gen_worker.testing import EndpointTester

GPUS = ["cuda:0", "cuda:1"]


class Cuda(threading.local):
    """What is used of `torch.cuda`. Its current device is a thread's own, as CUDA's is."""

    now = 0

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(GPUS)

    def current_device(self) -> int:
        return self.now

    def set_device(self, index: int) -> None:
        self.now = index


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=made))
    return made


class In(msgspec.Struct):
    pass


class Out(msgspec.Struct):
    gpus: list[int]


def current() -> int:
    index: int = sys.modules["torch"].cuda.current_device()
    return index


@inference_function(resources=Resources(requires_gpu=True))
def on_gpu(ctx: RequestContext, payload: In) -> Out:
    return Out([current()])


@inference_function
def on_cpu(ctx: RequestContext, payload: In) -> Out:
    return Out([current()])


@inference(resources=Resources(requires_gpu=True))
class Painter:
    def setup(self) -> None:
        self.gpus = [current()]

    def warmup(self) -> None:
        self.gpus.append(current())

    @invocable
    def paint(self, ctx: RequestContext, payload: In) -> Out:
        return Out([*self.gpus, current()])


WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


@WAYS
@pytest.mark.parametrize("device", GPUS)
def test_each_call_finds_its_own_gpu(device: str, is_inline: bool, cuda: Cuda) -> None:
    index = GPUS.index(device)
    with EndpointTester([on_gpu, on_cpu, Painter], devices=GPUS, is_inline=is_inline) as tester:
        assert tester.run("on-gpu", device=device).value == Out([index])
        assert tester.run("paint", device=device).value == Out([index] * 3)
        assert tester.run("on-cpu").value == Out([0])
    assert cuda.now == 0, "the thread that called has its own back"


def test_calls_side_by_side_find_each_their_own() -> None:
    with EndpointTester(on_gpu, devices=GPUS) as tester:
        calls = [tester.start("on-gpu", device=device) for device in GPUS * 3]
        assert [call.wait().value for call in calls] == [Out([0]), Out([1])] * 3
