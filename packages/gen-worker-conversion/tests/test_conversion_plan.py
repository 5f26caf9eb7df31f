"""A plan says everything before a tensor is read: what comes out, what it takes, what is not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.conversion.convert import (
    ConversionPlan,
    GgufOptions,
    MergedLora,
    ModelMerge,
    RefusedPlanError,
    inspect_model,
    plan_conversion,
    run_conversion,
)
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.quantize import calibration_data
from gen_worker.models.loading.errors import MissingPackageError

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.conversion.merge.methods import MergeMethod


def reasons(plan: ConversionPlan) -> str:
    return "\n".join(f"{one.target}: {one.reason}" for one in plan.refusals)


def test_a_plan_says_what_each_component_becomes(tmp_path: Path, small_models: Any) -> None:
    source = small_models.pipeline(tmp_path / "model")

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", components=["unet"])

    assert not plan.refusals
    assert (plan.layout, plan.family) == ("diffusers", "sd15")
    [flavor] = plan.flavors
    assert (flavor.token, flavor.flavor, flavor.path) == ("bf16", "bf16", str(tmp_path / "out"))
    unet, vae = flavor.components
    assert (unet.name, unet.action, unet.source_dtype, unet.dtype) == (
        *("unet", "cast", "fp32"),
        "bf16",
    )
    assert (unet.tensors, unet.changed, unet.source_bytes, unet.size_bytes) == (2, 2, 2304, 1152)
    assert (vae.action, vae.changed, vae.size_bytes, vae.dtype) == ("copy", 0, 288, "fp32")
    assert flavor.size_bytes == 1152 + 288 + flavor.other_bytes == plan.size_bytes
    assert plan.memory_bytes == 200 << 20
    assert plan.seconds > 0


def test_a_plan_takes_longer_where_methods_are_slower(tmp_path: Path, small_models: Any) -> None:
    source = tmp_path / "m"
    source.mkdir()
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    tensors = {"model.layers.0.q.weight": ("F32", [64, 64])}
    (source / "model.safetensors").write_bytes(small_models.file(tensors))

    plan = plan_conversion(source, ["bf16", "fp8", "int4"], out=tmp_path / "out")

    cast, eight, four = (flavor.seconds for flavor in plan.flavors)
    assert cast < eight < four


def test_several_outputs_have_a_folder_each(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")

    plan = plan_conversion(source, ["bf16", "fp16", "16bit"], out=tmp_path / "out")

    assert [flavor.path for flavor in plan.flavors] == [
        str(tmp_path / "out" / "bf16"),
        str(tmp_path / "out" / "fp16"),
    ]


def test_what_stays_in_its_precision_is_told_with_its_reason(
    tmp_path: Path, small_models: Any
) -> None:
    source = small_models.folder(tmp_path / "model")

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", keep=["*norm*"])

    [part] = plan.flavors[0].components
    [kept] = part.kept
    assert (kept.reason, kept.tensors, kept.size_bytes, kept.example) == (
        *("asked for", 1, 64),
        "layer.norm.weight",
    )


def test_a_plan_is_a_document(tmp_path: Path, small_models: Any) -> None:
    plan = plan_conversion(small_models.folder(tmp_path / "m"), ["bf16"], out=tmp_path / "out")

    assert msgspec.json.decode(msgspec.json.encode(plan), type=ConversionPlan) == plan


def test_everything_that_cannot_be_done_is_told_at_once(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()

    plan = plan_conversion(
        source, ["bf17", "svdquant", "bf16"], out=tmp_path / "out", components=["unet"]
    )

    told = reasons(plan)
    for part in ("'bf17' is no precision", "svdquant", "exists already", "no component 'unet'"):
        assert part in told
    with pytest.raises(RefusedPlanError) as caught:
        run_conversion(plan)
    assert len(caught.value.problems) == len(plan.refusals) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.parametrize("place", ["", "bf16"])
def test_outputs_never_go_into_the_source(tmp_path: Path, small_models: Any, place: str) -> None:
    source = small_models.folder(tmp_path / "model")

    plan = plan_conversion(source, ["bf16"], out=source / place)

    assert "inside the source" in reasons(plan)
    assert "remove it" not in reasons(plan), "nobody is told to remove the source"


def test_a_plan_counts_the_tensors_of_the_source(tmp_path: Path, small_models: Any) -> None:
    source = tmp_path / "m"
    source.mkdir()
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    tensors = {"a.q.weight": ("F32", [64, 64]), "norm.weight": ("F32", [64])}
    (source / "model.safetensors").write_bytes(small_models.file(tensors))

    plan = plan_conversion(source, ["fp8", "mxfp4"], out=tmp_path / "out")

    assert [(one.components[0].changed, one.components[0].tensors) for one in plan.flavors] == [
        (1, 2),
        (2, 2),  # what stays becomes bf16
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (GgufOptions(importance="m.imat"), "an importance matrix"),
        (GgufOptions(metadata={"a": "b"}, base="m"), "metadata and a base model"),
    ],
)
def test_what_gguf_files_alone_have_is_refused_without_one(
    options: GgufOptions, told: str, tmp_path: Path, small_models: Any
) -> None:
    source = small_models.folder(tmp_path / "m")

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", gguf=options)

    assert f"{told}: only GGUF files have it" in reasons(plan)


def test_a_lora_takes_no_lora(tmp_path: Path, small_models: Any) -> None:
    lora = tmp_path / "lora.safetensors"
    tensors = {f"unet.to_q.lora_{end}.weight": ("F32", [4, 4]) for end in "AB"}
    lora.write_bytes(small_models.file(tensors))
    merge = ModelMerge(method="linear", models=(str(lora),), weights=(1.0,))

    for given in ({"loras": [MergedLora(path=str(lora))]}, {"merge": merge}):
        plan = plan_conversion(lora, ["fp32"], out=tmp_path / "out", **given)
        assert "nothing is merged into those" in reasons(plan)


@pytest.mark.parametrize(
    ("method", "weight", "told"),
    [
        ("linear", float("nan"), "is no number to merge by"),
        ("linear", float("inf"), "is no number to merge by"),
        ("slerp", 30.0, "30.0 is no place between two models"),
        ("slerp", -0.1, "is no place between"),
    ],
)
def test_weights_that_make_no_model_are_refused(
    method: MergeMethod, weight: float, told: str, tmp_path: Path, small_models: Any
) -> None:
    first, second = (small_models.folder(tmp_path / name) for name in "ab")
    merge = ModelMerge(method=method, models=(str(second),), weights=(weight,))

    plan = plan_conversion(first, ["fp32"], out=tmp_path / "out", merge=merge)

    assert told in reasons(plan)


def test_a_lora_of_another_size_is_refused_by_tensor(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "m")
    lora = tmp_path / "lora"
    lora.mkdir()
    sizes = {"layer.lora_A.weight": [2, 4], "layer.lora_B.weight": [8, 2]}
    tensors = {f"base_model.model.{name}": ("F32", size) for name, size in sizes.items()}
    (lora / "adapter_model.safetensors").write_bytes(small_models.file(tensors))
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')

    plan = plan_conversion(
        source, ["bf16"], out=tmp_path / "out", loras=[MergedLora(path=str(lora))]
    )

    told = "'layer.weight' has the shape [16, 16], and the update of it in the LoRA [8, 4]"
    assert told in reasons(plan)


def test_calibration_asks_for_no_more_rows_than_there_are(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("one\n\ntwo\n")

    assert calibration_data(tmp_path / "rows.txt").samples == 2
    assert calibration_data(tmp_path / "rows.txt", samples=1).samples == 1


def test_calibration_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n \n")
    (tmp_path / "data").mkdir()

    for name, told in (("rows.txt", "has no text"), ("data", "is empty")):
        with pytest.raises(ConversionInputError, match=told):
            calibration_data(tmp_path / name)


def test_what_reads_no_text_is_not_calibrated(tmp_path: Path, small_models: Any) -> None:
    source = small_models.pipeline(tmp_path / "model")
    (tmp_path / "rows.txt").write_text("one\n")

    plan = plan_conversion(source, ["fp8"], out=tmp_path / "o", calibration=tmp_path / "rows.txt")

    assert "'unet' reads no text" in reasons(plan)


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_there_are_plans_alone(tmp_path: Path, small_models: Any) -> None:
    plan = plan_conversion(small_models.folder(tmp_path / "m"), ["bf16"], out=tmp_path / "out")

    with pytest.raises(MissingPackageError, match=r"install 'gen-worker\[torch,conversion\]'"):
        run_conversion(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("svdquant", "it is done by nunchaku"),
        ("int4:awq", "it is done by modelopt"),
        ("gguf:iq2_m", "iq2_m"),
        ("gguf:fp8", "no type of GGUF files"),
        ("3bit", "no precision of 3 bits"),
    ],
)
def test_what_nothing_here_makes_is_refused_by_name(
    token: str, told: str, tmp_path: Path, small_models: Any
) -> None:
    plan = plan_conversion(small_models.folder(tmp_path / "m"), [token], out=tmp_path / "out")

    assert told in reasons(plan)


def test_a_single_file_takes_only_what_its_loaders_read(tmp_path: Path, small_models: Any) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(small_models.file({"layer.weight": ("F32", [64, 64])}))

    refused = plan_conversion(path, ["int8"], out=tmp_path / "a")
    plain = plan_conversion(path, ["fp8:e4m3:storage"], out=tmp_path / "b")

    assert "not for a single file" in reasons(refused)
    assert not plain.refusals
    assert plain.flavors[0].flavor == "fp8-e4m3-storage"


def test_a_pattern_that_names_nothing_is_refused(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "m")

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", keep=["*nrom*"])

    assert "'*nrom*' names no tensor" in reasons(plan)


def test_a_disk_without_room_is_refused_before_anything_is_read(
    tmp_path: Path, small_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)

    plan = plan_conversion(small_models.folder(tmp_path / "m"), ["bf16"], out=tmp_path / "out")

    assert "has room for 100 bytes" in reasons(plan)


def test_damaged_weights_and_pickles_are_refused_by_name(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "model.safetensors" in reasons(plan_conversion(source, ["bf16"], out=tmp_path / "out"))

    file.unlink()
    (source / "pytorch_model.bin").touch()
    assert "pytorch_model.bin" in reasons(plan_conversion(source, ["bf16"], out=tmp_path / "out"))


def test_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConversionInputError, match="does not exist"):
        plan_conversion(tmp_path / "none", ["bf16"], out=tmp_path / "out")


def test_inspection_counts_by_component(tmp_path: Path, small_models: Any) -> None:
    facts = inspect_model(small_models.pipeline(tmp_path / "model"))

    assert [part.name for part in facts.components] == ["unet", "vae"]
    assert (facts.tensors, facts.parameters, facts.size_bytes) == (4, 648, 2592)
    assert facts.class_name == "StableDiffusionPipeline"
    assert facts.components[0].class_name == "UNet2DConditionModel"
    assert facts.components[0].dtypes == {"F32": 2304}


def test_inspection_of_a_file(tmp_path: Path, small_models: Any) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(small_models.file({"w": ("F8_E4M3", [4, 4]), "w_scale": ("F32", [1])}))

    facts = inspect_model(path)

    assert (facts.layout, facts.family) == ("singlefile", "unknown")
    assert facts.components[0].dtype == "f8_e4m3"


def test_inspection_tells_quantisation_and_foreign_code(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    (source / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')

    assert inspect_model(source).components[0].quantization == "fp8"


def test_bits_come_to_a_precision_that_a_whole_pipeline_can_have(
    tmp_path: Path, small_models: Any
) -> None:
    pipeline = small_models.pipeline(tmp_path / "pipeline")
    folder = small_models.folder(tmp_path / "folder")

    def tokens(source: Path, *asked: str) -> tuple[str, ...]:
        return plan_conversion(source, asked, out=tmp_path / "out").request.targets

    assert tokens(pipeline, "4bit", "8bit", "16bit") == ("int4", "fp8:e4m3", "bf16")
    assert tokens(pipeline, "nvfp4") == ("nvfp4",)
    assert tokens(folder, "4bit") == ("nvfp4",)


def test_what_is_wrong_with_a_source_is_told_once(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    (source / "model.safetensors").write_bytes(b"short")

    plan = plan_conversion(source, ["bf16", "fp16"], out=tmp_path / "out")

    [refusal] = plan.refusals
    assert refusal.target == ""
    assert "model.safetensors" in refusal.reason


def test_an_index_that_leads_outside_is_what_is_wrong(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a.weight": "../secret/x.safetensors"}}'
    )

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out")

    [refusal] = plan.refusals
    assert "../secret/x.safetensors" in refusal.reason
    assert "has no weights" not in refusal.reason
