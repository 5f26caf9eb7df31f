"""Conversions that are calibrated: planned, refused by name, resumed, and told in the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from gen_worker.cancel import CancelToken  # noqa: E402
from gen_worker.conversion import open_checkpoint  # noqa: E402
from gen_worker.conversion.convert import (  # noqa: E402
    ConversionPlan,
    Progress,
    plan_conversion,
    prove_outputs,
    run_conversion,
    verify_flavor,
)
from gen_worker.conversion.errors import ConversionInputError  # noqa: E402
from gen_worker.conversion.quantize import (  # noqa: E402
    CalibrationData,
    QuantizeOptions,
    calibrate_checkpoint,
    calibration_data,
    quantize_checkpoint,
)
from gen_worker.errors import CanceledError  # noqa: E402
from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion  # noqa: E402

METHOD = "int4:gptq:g32"
PACKED = "model.layers.1.mlp.down_proj.weight_packed"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CalibrationData:
    path = tmp_path_factory.mktemp("text") / "rows.txt"
    path.write_text("\n".join(f"{n} foxes jump over {n * n} lazy dogs" for n in range(60)))
    return calibration_data(path, samples=12, length=48)


def reasons(plan: ConversionPlan) -> dict[str, str]:
    return {one.target: one.reason for one in plan.refusals}


def test_a_plan_makes_what_its_parts_make(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    plan = plan_conversion(llama, [METHOD, "fp8", "bf16"], out=tmp_path / "out", calibration=data)
    assert not plan.refusals
    told: list[Progress] = []
    run_conversion(plan, progress=told.append)
    shares = [one.calibrated for one in told if one.calibrated is not None]
    assert {shares[0] > 0, shares[-1] == 1.0} == {True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    source = open_checkpoint(llama)
    made = quantize_checkpoint(source, METHOD, None, QuantizeOptions(group_size=32))
    calibrate_checkpoint(made, source, llama, data, tmp_path / "work")
    written = open_checkpoint(tmp_path / "out" / "int4-gptq-g32")
    assert torch.equal(written[PACKED].tensor(), made.tensors[PACKED].tensor())
    config = json.loads((tmp_path / "out" / "fp8" / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    assert groups["group_0"]["input_activations"]["dynamic"] is False
    for flavor in plan.flavors:
        verify_flavor(plan, flavor)


def test_a_plan_tells_memory_and_time_of_calibration(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    with_data = plan_conversion(llama, [METHOD], out=tmp_path / "out", calibration=data)
    without = plan_conversion(llama, ["int4:wo"], out=tmp_path / "out")
    [part] = with_data.flavors[0].components
    assert part.operations > 0
    assert part.memory_bytes > 0
    assert with_data.seconds > without.seconds
    assert with_data.memory_bytes > without.memory_bytes


@pytest.mark.parametrize("token", ["int4:gptq", METHOD, "int8:gptq"])
def test_what_needs_data_is_refused_without(token: str, llama: Path, tmp_path: Path) -> None:
    plan = plan_conversion(llama, [token, "fp8"], out=tmp_path / "out")
    assert reasons(plan).keys() == {token}
    assert "--calibrate" in reasons(plan)[token]
    with pytest.raises(ConversionInputError, match="calibrated"):
        run_conversion(plan)


def test_data_that_a_method_cannot_take_are_refused(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    plan = plan_conversion(llama, ["nf4", METHOD], out=tmp_path / "out", calibration=data)
    assert reasons(plan).keys() == {"nf4"}
    assert "cannot be calibrated" in reasons(plan)["nf4"]
    plan = plan_conversion(llama, ["bf16", "gguf:q8_0"], out=tmp_path / "out", calibration=data)
    assert "nothing that is asked for" in reasons(plan)[""]


def test_data_that_are_not_there_are_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionInputError, match=r"absent\.txt' does not exist"):
        plan_conversion(llama, [METHOD], out=tmp_path / "out", calibration=tmp_path / "absent.txt")


def test_calibration_that_is_only_beneficial_can_be_skipped(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = plan_conversion(llama, ["int8"], out=out, calibration=data, skip_calibration=True)
    run_conversion(plan)
    assert not [name for name in open_checkpoint(out) if name.endswith("input_scale")]
    plan = plan_conversion(
        llama, [METHOD], out=tmp_path / "b", calibration=data, skip_calibration=True
    )
    assert plan.flavors[0].components[0].operations > 0  # it cannot do without


def test_four_bits_are_calibrated_where_there_are_data(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    for given, token in ((data, "int4:gptq"), (None, "nvfp4")):
        plan = plan_conversion(llama, ["4bit"], out=tmp_path / "out", calibration=given)
        assert plan.request.targets == (token,)


def test_text_encoders_of_a_pipeline_are_calibrated_and_denoisers_are_not(
    data: CalibrationData, tmp_path: Path
) -> None:
    pipeline = tiny_stable_diffusion(tmp_path / "model")
    out = tmp_path / "out"
    plan = plan_conversion(
        pipeline, [METHOD], out=out, components=["text_encoder"], calibration=data
    )
    assert not plan.refusals
    run_conversion(plan)
    assert [name for name in open_checkpoint(out / "text_encoder") if name.endswith("_packed")]
    verify_flavor(plan, plan.flavors[0])
    plan = plan_conversion(pipeline, ["int8"], out=tmp_path / "b", calibration=data)
    assert "'unet' reads no text" in reasons(plan)["int8"]


def test_a_run_that_was_broken_off_while_it_calibrates_goes_on(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    wanted = tmp_path / "wanted"
    run_conversion(plan_conversion(llama, [METHOD], out=wanted, calibration=data))
    plan = plan_conversion(llama, [METHOD], out=tmp_path / "out", calibration=data)
    token = CancelToken()

    def stop(progress: Progress) -> None:
        if progress.calibrated is not None and progress.calibrated > 0.7:
            token.cancel()

    with pytest.raises(CanceledError):
        run_conversion(plan, progress=stop, token=token)
    assert not (tmp_path / "out").exists()
    told: list[float] = []
    run_conversion(plan, progress=lambda one: told.append(one.calibrated or 1.0))
    assert told[0] > 0.5
    for name, tensor in open_checkpoint(wanted).items():
        assert torch.equal(open_checkpoint(tmp_path / "out")[name].tensor(), tensor.tensor()), name


def test_the_proof_names_the_data_by_digest(
    llama: Path, data: CalibrationData, tmp_path: Path
) -> None:
    plan = plan_conversion(llama, ["int8"], out=tmp_path / "out", calibration=data)
    run_conversion(plan)
    [proven] = prove_outputs(plan)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["recipe"]["calibration"]
    assert {**told, "path": ""} == {
        "digest": data.digest,
        "length": 48,
        "samples": 12,
        "path": "",
    }
    assert proven.produced.attributes["calibration"] == data.digest
    assert data.path not in (tmp_path / "out" / "provenance.json").read_text()
