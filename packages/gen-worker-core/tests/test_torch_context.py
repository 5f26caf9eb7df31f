"""What a context gives to code that computes with torch, next to the real torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_worker import RequestContext
from gen_worker.errors import classify

torch: Any = pytest.importorskip("torch")


def default_device() -> Any:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@pytest.mark.parametrize("setting", [None, "", "auto"])
def test_the_device_is_the_best_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    for name in ("WORKER_TORCH_DEVICE", "WORKER_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    if setting is not None:
        monkeypatch.setenv("WORKER_TORCH_DEVICE", setting)
    assert RequestContext("t").device == default_device()


@pytest.mark.parametrize("variable", ["WORKER_TORCH_DEVICE", "WORKER_DEVICE"])
def test_an_operator_can_force_the_device(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "meta")
    assert RequestContext("t").device == torch.device("meta")


def test_the_device_of_the_slot_wins_over_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_TORCH_DEVICE", "meta")
    assert RequestContext("t", device="cuda:1").device == torch.device("cuda", 1)


def test_tensors_are_made_on_it() -> None:
    ctx = RequestContext("t", device="cpu")
    weights_AB = torch.ones((2, 3), device=ctx.device)
    assert weights_AB.to(ctx.device).sum().item() == 6.0


def test_the_device_is_an_object_that_torch_made_and_prints_as_its_users_expect() -> None:
    device = RequestContext("t", device="cpu").device
    assert isinstance(device, torch.device)
    assert str(device) == "cpu"


def test_neither_the_package_nor_a_context_imports_torch() -> None:
    code = """
import sys, gen_worker
from gen_worker import Clamp, RequestContext, inference_function, iter_transformers_text_deltas
RequestContext("t").raise_if_canceled()
print(sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_running_out_of_device_memory_is_a_lack_of_resources() -> None:
    error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    failure = classify(error)
    assert (failure.error_type, failure.retryable, failure.http_status) == ("resource", False, 503)


def test_saved_weights_are_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEN_WORKER_LOCAL_OUTPUT_DIR", str(tmp_path / "out"))
    safetensors: Any = pytest.importorskip("safetensors.torch")
    weights = {"layer.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)}
    source = tmp_path / "adapter.safetensors"
    safetensors.save_file(weights, source)
    stored = RequestContext("job-1").save_checkpoint(
        "final/adapter.safetensors", source, step_number=3
    )
    assert stored.format == "safetensors"
    assert stored.size_bytes == source.stat().st_size
    loaded = safetensors.load_file(stored.local_path)
    assert torch.equal(loaded["layer.weight"], weights["layer.weight"])
    assert loaded["layer.weight"].dtype == torch.bfloat16
