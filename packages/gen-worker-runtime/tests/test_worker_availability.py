"""Gates before functions: who decides first, what is told of it, and what stays."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference_function
from gen_worker.host_requirements import Gpu, HostFacts
from gen_worker.runtime.worker.availability import Availability, Gate
from gen_worker.runtime.worker.gpus import GpuFacts, fake_gpus, free_bytes, host_facts
from gen_worker.spec import FunctionSpec, specs_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Text(msgspec.Struct):
    text: str = ""


def function(**resources: Any) -> FunctionSpec:
    def run(ctx: RequestContext, payload: Text) -> Text:
        return payload

    decorated = inference_function(resources=Resources(**resources))(run)
    return specs_of(decorated)[0]


def availability(spec: FunctionSpec, *gpus: Gpu) -> Availability:
    return Availability({"run": spec}, HostFacts(gpus=gpus), has_library=lambda name: name != "x")


LARGE = Gpu(80.0, 9.0)


@pytest.mark.parametrize(
    ("resources", "gpus", "reason", "axes"),
    [
        (
            {"requires_gpu": True},
            (),
            "cuda_unavailable",
            {"accelerator": "cuda", "gpu_count": "0"},
        ),
        (
            {"min_compute_capability": 9.0},
            (Gpu(80.0, 8.9),),
            "compute_capability_unmet",
            {"required_compute_capability": "9.0", "detected_compute_capability": "8.9"},
        ),
        (
            {"min_compute_capability": 8.0},
            (Gpu(80.0, None),),
            "compute_capability_unmet",
            {"required_compute_capability": "8.0", "detected_compute_capability": "unknown"},
        ),
        (
            {"min_vram_gb": 40},
            (Gpu(23.5, 8.9),),
            "insufficient_vram",
            {"required_vram_gb": "40.000", "detected_vram_gb": "23.500"},
        ),
        (
            {"required_libraries": ("x", "y")},
            (),
            "missing_optional_library",
            {"missing_libraries": "x"},
        ),
    ],
)
def test_a_machine_that_lacks_something_says_what(
    resources: dict[str, Any], gpus: tuple[Gpu, ...], reason: str, axes: dict[str, str]
) -> None:
    gate = availability(function(**resources), *gpus).gate("run")
    assert gate is not None
    assert (gate.reason, dict(gate.axes), gate.error_type) == (reason, axes, "hardware_unmet")


def test_the_orchestrator_decides_before_the_machine_and_that_before_models() -> None:
    gates = availability(function(requires_gpu=True))
    gates.await_models(["run"], {})
    gates.configure({"run": Gate("repo_deleted")})
    gates.disable("run", Gate("made_up", is_hardware=True))
    reasons = []
    undoes: list[Callable[[], object]] = [
        lambda: gates.configure({}),
        lambda: gates.see(HostFacts(gpus=(LARGE,))),
        lambda: gates.await_models([], {"run": "acme/gone:prod"}),
    ]
    for undo in undoes:
        gate = gates.gate("run")
        assert gate is not None
        reasons.append((gate.reason, gate.error_type))
        undo()
    assert reasons == [
        ("repo_deleted", "function_unavailable"),
        ("made_up", "hardware_unmet"),
        ("made_up", "hardware_unmet"),  # for good
    ]
    assert gates.disabled_here.keys() == {"run"}
    assert gates.disable("run", Gate("again")) is False


def test_a_function_without_a_model_it_could_run_with_is_unavailable() -> None:
    gates = availability(function())
    assert list(gates.available) == ["run"]
    gates.await_models(["run"], {})
    assert list(gates.available) == []
    assert list(gates.loading) == ["run"]
    gates.await_models([], {"run": "acme/gone:prod"})
    gate = gates.gate("run")
    assert gate is not None
    assert (gate.reason, gate.error_type) == ("binding_ref_unavailable", "function_unavailable")
    assert gate.axes == {"ref": "acme/gone:prod"}
    assert list(gates.loading) == []


def test_capabilities_are_signed_and_change_with_what_runs() -> None:
    gates = availability(function(min_vram_gb=20), LARGE)
    told = gates.capabilities()
    assert told.signature == hashlib.sha256(told.capabilities_json).hexdigest()
    (record,) = msgspec.json.decode(told.capabilities_json)["functions"]
    assert record == {
        "available": True,
        "function_name": "run",
        "min_vram_gb": 20.0,
        "output_mode": "single",
    }
    gates.configure({"run": Gate("repo_deleted", "it is gone")})
    assert gates.capabilities().signature != told.signature


def test_gpus_are_told_by_the_driver_or_made_up() -> None:
    gpus = fake_gpus(2, 24 * 1024**3, "FakeGPU")
    assert host_facts(gpus) == HostFacts(gpus=(Gpu(24.0), Gpu(24.0)))
    assert free_bytes(gpus[0]) == 24 * 1024**3
    assert GpuFacts("H200", 1, 9.0).sm == "90"
    assert GpuFacts("L4", 1, 8.9).sm == "89"
    assert GpuFacts("B200", 1, 12.0).sm == "120"
