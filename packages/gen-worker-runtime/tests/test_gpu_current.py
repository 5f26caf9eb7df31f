"""On a machine with several GPUs, a call without a word about devices computes on its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference, invocable
from gen_worker.testing import EndpointTester

torch: Any = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


class In(msgspec.Struct):
    pass


class Out(msgspec.Struct):
    devices: list[str]


@inference(resources=Resources(requires_gpu=True))
class Adder:
    def setup(self) -> None:
        self.weights = torch.ones(1).cuda()

    @invocable
    def add(self, ctx: RequestContext, payload: In) -> Out:
        total = self.weights + torch.ones(1, device="cuda")
        return Out([str(self.weights.device), str(total.device), str(ctx.device)])


def test_setup_and_calls_compute_on_the_gpu_they_were_given() -> None:
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    with EndpointTester(Adder, devices=devices) as tester:
        for device in reversed(devices):
            assert tester.run("add", device=device).value == Out([device] * 3)
