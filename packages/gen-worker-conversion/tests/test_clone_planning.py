"""What becomes of a source, decided without touching a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.clone.civitai_source import pipeline_hint
from gen_worker.clone.payload import CloneOutput, read_request
from gen_worker.clone.planning import (
    ClonePlan,
    SourceFacts,
    SourceIdentity,
    plan_clone,
    recipe_of,
)
from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.convert import plan_conversion
from gen_worker.conversion.convert.planning import available_tokens
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.ingest.civitai import CivitaiIdentity
from gen_worker.conversion.inline import (
    InlineConversionNotPossible,
    deferred_conversion_requirement,
    is_calibration_required,
    is_inline_supported,
    run_inline_conversion,
)

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
IDENTITY = SourceIdentity(provider="hf", ref="hf:a/b", revision="c" * 40)
MADE = frozenset(CAST_DTYPES) | {"int8", "fp8:e4m3", "q4_k_m", "q8_0"}


def facts(strategy: str = "diffusers", dtype: str = "fp32", **fields: Any) -> SourceFacts:
    sizes = fields.pop("sizes", {"unet/diffusion_pytorch_model.safetensors": GIB})
    return SourceFacts(
        strategy=strategy, runtime_library=strategy, dtype=dtype, sizes=sizes, **fields
    )


def planned(source: SourceFacts, *outputs: Any, **options: Any) -> ClonePlan:
    payload = {"destination_repo": "a/b", "huggingface_repo": "a/b", "outputs": list(outputs)}
    wanted = read_request(payload, provider="hf").outputs
    return plan_clone(IDENTITY, source, wanted, **{"available": MADE, **options})


def labels(plan: ClonePlan) -> list[tuple[str, bool]]:
    return [(one.label, one.is_passthrough) for one in plan.flavors]


@pytest.mark.parametrize(
    ("source", "outputs", "expected"),
    [
        (facts(dtype="bf16"), (), [("bf16", True)]),
        (facts(dtype="bf16"), ("bf16",), [("bf16", True)]),
        (facts(), ("bf16",), [("bf16", False)]),
        (facts(), ("bf16", "fp32"), [("bf16", False), ("fp32", True)]),
        (facts(), ("f32", "fp32"), [("fp32", True)]),
        (facts(), ({"dtype": "fp32", "file_layout": "singlefile"},), [("fp32-singlefile", False)]),
        (facts("aio_singlefile", "fp16"), ({"dtype": "fp16", "file_layout": "aio"},),
         [("fp16", True)]),
        (facts("transformers", "fp32"), (), [("fp32", True), ("bf16", False)]),
        (facts("transformers", "fp32"), ("q4_k_m",), [("fp32", True), ("q4_k_m", False)]),
        (facts("transformers", "fp32"), ({"dtype": "bf16", "file_type": "gguf"},),
         [("fp32", True), ("gguf-bf16", False)]),
        (facts("peft_canonical", "fp16"), (), [("fp16", True)]),
        (facts("gguf", "q8_0"), (), [("q8_0", True)]),
        (facts("gguf", "q8_0"), ("gguf:q8_0",), [("q8_0", True)]),
        (facts("native_lora", ""), (), [("source", True)]),
        (facts("components", "fp16"), (), [("fp16", True)]),
    ],
)  # fmt: skip
def test_what_is_there_is_published_and_the_rest_is_made(
    source: SourceFacts, outputs: tuple[Any, ...], expected: list[tuple[str, bool]]
) -> None:
    assert labels(planned(source, *outputs)) == expected


@pytest.mark.parametrize(
    ("source", "asked", "dtype"),
    [
        (facts("diffusers"), "8bit", "fp8:e4m3"),
        (facts("transformers"), "4bit", "int4:awq"),
        (facts("transformers"), {"dtype": "4bit", "file_type": "gguf"}, "q4_k_m"),
        (facts("transformers"), "16bit", "bf16"),
        (facts("transformers", "fp16"), "16bit", "bf16"),
        (facts("transformers"), "Q4_K_M", "q4_k_m"),
        (facts("transformers"), "fp8-e4m3", "fp8:e4m3"),
    ],
)
def test_numbers_of_bits_and_types_of_gguf_come_to_a_precision(
    source: SourceFacts, asked: Any, dtype: str
) -> None:
    plan = planned(source, asked)
    made, failed = [one.dtype for one in plan.flavors], [one.dtype for one in plan.failed]
    assert [one for one in (*made, *failed) if one != source.dtype] == [dtype]


def test_a_gguf_file_is_a_layout_of_its_own() -> None:
    """Methods take components; a GGUF file has one, and there is no other layout of it."""
    components = {"unet": GIB, "text_encoder": GIB}
    wanted = {"dtype": "q8_0", "file_layout": "diffusers"}
    plan = planned(facts(components=components), wanted, quantize_components=("transformer",))
    (flavor,) = plan.flavors
    assert (flavor.label, flavor.file_layout, flavor.changes_layout) == (
        "q8_0", "singlefile", False)  # fmt: skip
    assert flavor.components is None


def test_so_many_bits_are_none_that_need_data() -> None:
    made = MADE | {"nvfp4", "int4"}
    plan = planned(facts("diffusers"), "4bit", available=made)
    assert [one.dtype for one in plan.flavors] == ["int4"]
    (failed,) = planned(facts("transformers"), "4bit").failed
    assert failed.deferred_requirement is not None


@pytest.mark.parametrize("bits", ["32bit", "16bit", "8bit", "4bit", "gguf:4bit"])
@pytest.mark.parametrize("layout", ["", "singlefile", "diffusers"])
@pytest.mark.parametrize("strategy", ["diffusers", "transformers", "aio_singlefile"])
def test_bits_come_to_what_conversions_make_of_them(
    strategy: str, layout: Any, bits: str, tmp_path: Path, small_models: Any
) -> None:
    if strategy == "aio_singlefile":
        source = tmp_path / "model.safetensors"
        source.write_bytes(small_models.file({"a.weight": ("F32", [8, 8])}))
    else:
        made = small_models.pipeline if strategy == "diffusers" else small_models.folder
        source = made(tmp_path / "model")
    conversion = plan_conversion(
        source, [bits], out=tmp_path / "out", layout=None if strategy == "transformers" else layout
    )
    word, is_gguf = bits.removeprefix("gguf:"), bits.startswith("gguf:")
    asked = {"dtype": word, "file_layout": layout, "file_type": "gguf" if is_gguf else ""}

    plan = planned(facts(strategy, ""), asked, available=available_tokens())

    tokens = [one.removeprefix("gguf:") for one in conversion.request.targets]
    found = [one.dtype for one in plan.flavors if not one.is_passthrough]
    failed = [one for one in plan.failed if one.deferred_requirement is None]
    assert found == tokens or (not tokens and not found and len(failed) == 1)
    assert tokens or (strategy, layout, bits) in NONE_OF_SO_MANY_BITS


NONE_OF_SO_MANY_BITS = {
    (strategy, layout, bits)
    for strategy, layout in (
        ("diffusers", "singlefile"),
        ("aio_singlefile", ""),
        ("aio_singlefile", "singlefile"),
    )
    for bits in ("8bit", "4bit")
}


def test_older_lists_of_formats_are_read() -> None:
    payload = {
        "destination_repo": "a/b",
        "huggingface_repo": "a/b",
        "save_formats": ["bf16", "gguf:q4_k_m", "flashpack"],
        "target_layout": "diffusers",
    }
    outputs = read_request(payload, provider="hf").outputs
    assert [(one.dtype, one.file_type) for one in outputs] == [
        ("bf16", "safetensors"),
        ("q4_k_m", "gguf"),
        ("bf16", "flashpack"),
    ]


@pytest.mark.parametrize(
    ("dtype", "runtime"),
    [
        ("int4:awq", "modelopt"),
        ("int4:gptq:g64", "gen-worker-conversion"),
        ("int8:gptq", "gen-worker-conversion"),
        ("int8:awq", "modelopt"),
    ],
)
def test_what_needs_data_is_left_to_a_job_of_its_own(dtype: str, runtime: str) -> None:
    plan = planned(facts(), "bf16", dtype)
    (failed,) = plan.failed
    assert labels(plan) == [("bf16", False)]
    assert failed.deferred_requirement == {
        "kind": "calibrated_quantization",
        "target_dtype": dtype,
        "scheme": dtype.replace(":", "_"),
        "requires_calibration": True,
        "requires_gpu": runtime == "modelopt",
        "runtime": runtime,
    }
    assert failed.as_dict()["spec_label"] == f"{dtype.replace(':', '-')}-safetensors"


def test_gguf_is_not_made_of_gguf() -> None:
    plan = planned(facts("gguf", "q8_0"), "q4_k_m", "bf16")
    assert labels(plan) == [("q8_0", True)]
    assert [one.dtype for one in plan.failed] == ["q4_k_m", "bf16"]


def test_components_without_configurations_stay_as_they_are() -> None:
    plan = planned(facts("components", "fp16"), "fp16", "bf16")
    assert labels(plan) == [("fp16", True)]
    assert "no configurations" in plan.failed[0].reason


@pytest.mark.parametrize(
    ("components", "wanted", "chosen"),
    [
        ({"unet": GIB, "vae": GIB, "text_encoder": GIB}, ("transformer", "text_encoder"),
         ("unet", "text_encoder")),
        ({"transformer": GIB, "text_encoder_2": GIB, "text_encoder": 9}, ("transformer",
         "text_encoder"), ("transformer", "text_encoder_2")),
        ({"unet": 5000, "text_encoder": 900, "vae": 9000}, ("transformer", "text_encoder"),
         ("unet",)),
        ({"unet": GIB, "vae": GIB}, ("all",), None),
        ({"": GIB}, ("transformer",), None),
    ],
)  # fmt: skip
def test_what_is_quantized_is_large_or_the_largest(
    components: dict[str, int], wanted: tuple[str, ...], chosen: tuple[str, ...] | None
) -> None:
    plan = planned(facts(components=components), "int8", quantize_components=wanted)
    assert plan.flavors[0].components == chosen
    cast = planned(facts(components=components), "bf16", quantize_components=wanted)
    assert cast.flavors[0].components is None


def test_files_are_split_where_they_are_no_shards() -> None:
    sizes = {
        "unet/diffusion_pytorch_model.safetensors": 6 * GIB,
        "vae/diffusion_pytorch_model.safetensors": GIB,
        "transformer/m-00001-of-00002.safetensors": 6 * GIB,
    }
    plan = planned(facts(dtype="bf16", sizes=sizes), "bf16")
    assert plan.flavors[0].split_files == ("unet/diffusion_pytorch_model.safetensors",)


def test_equal_requests_have_one_recipe() -> None:
    def recipe(**fields: Any) -> str:
        payload = {"destination_repo": "a/b", "huggingface_repo": "a/b", **fields}
        return recipe_of(read_request(payload, provider="hf"))

    assert recipe(outputs=["fp8-e4m3"]) == recipe(outputs=[{"dtype": "FP8:e4m3"}], other=1)
    assert recipe(outputs=["bf16"]) != recipe(outputs=["fp16"])


@pytest.mark.parametrize(
    ("base", "pipeline"),
    [
        ("SD 1.5", "StableDiffusionPipeline"),
        ("SDXL 1.0", "StableDiffusionXLPipeline"),
        ("Pony", "StableDiffusionXLPipeline"),
        ("Flux.1 D", "FluxPipeline"),
        ("Flux.2 Klein 4B", "Flux2KleinPipeline"),
        ("Flux.2 D", "Flux2Pipeline"),
        ("Wan Video 2.2 T2V-A14B", "WanPipeline"),
        ("SD 3.5", ""),
        ("Other", ""),
        ("Other; urn:air:flux1:checkpoint:civitai:1@2", "FluxPipeline"),
        ("Other; urn:air:sd1:lora:civitai:1@2", "StableDiffusionPipeline"),
        ("Other; urn:air:flux2klein:lora:civitai:1@2", "Flux2KleinPipeline"),
        ("; ", ""),
        ("Qwen", "QwenImagePipeline"),
        ("Qwen Image Edit", "QwenImageEditPipeline"),
    ],
)
def test_a_base_model_of_civitai_hints_at_a_pipeline(base: str, pipeline: str) -> None:
    base, _, air = base.partition("; ")
    found = CivitaiIdentity(
        model_id="1",
        model_version_id="2",
        identity="x",
        files={},
        fingerprints={},
        facts={"base_model": base, "air": air},
    )
    assert pipeline_hint(found) == pipeline


# Conversions on the way


def test_what_is_made_on_the_way_is_told() -> None:
    assert is_inline_supported("bf16")
    assert not is_inline_supported("int4:awq")
    assert not is_inline_supported("bf16", target_file_type="flashpack")
    assert is_calibration_required("int4:gptq:g128")
    assert is_inline_supported("nvfp4")
    assert not is_calibration_required("nvfp4")
    assert not is_calibration_required("int8")
    assert deferred_conversion_requirement("bf16") is None


def test_refusals_say_why(tmp_path: Any) -> None:
    with pytest.raises(ConversionInputError, match="empty"):
        run_inline_conversion(source_path=tmp_path, out_dir=tmp_path / "out", target_dtype=" ")
    with pytest.raises(InlineConversionNotPossible) as refused:
        run_inline_conversion(
            source_path=tmp_path, out_dir=tmp_path / "out", target_dtype="int4:awq"
        )
    requirement = refused.value.deferred_requirement
    assert requirement is not None
    assert requirement.as_dict()["scheme"] == "int4_awq"
    assert "calibration" in refused.value.reason


def test_an_output_is_labelled_by_all_of_it() -> None:
    output = CloneOutput(dtype="fp8:e4m3", file_layout="diffusers")
    assert output.label == "fp8-e4m3-diffusers-safetensors"
