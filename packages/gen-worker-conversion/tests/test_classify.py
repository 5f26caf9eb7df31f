"""What repositories are, by the list of their files, headers and small documents alone."""

from __future__ import annotations

import json
import pickle
import struct
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.conversion.classify import (
    REFUSALS,
    Classification,
    ClassificationInputs,
    RefusalKind,
    RepoRefusal,
    SafetensorsFacts,
    classify,
    detect_huggingface_source_layout,
    filter_by_source_dtype_preference,
    parse_weight_file,
    read_safetensors_header_dtype,
)
from gen_worker.conversion.classify.values import safetensors_facts
from gen_worker.conversion.classify.weight_names import gguf_quant_of
from gen_worker.errors import ValidationError
from gen_worker.models.formats import DTYPE_BITS

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
LORA = SafetensorsFacts(
    frozenset({"lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"}),
    frozenset({"F16"}),
    "F16",
)
FULL = SafetensorsFacts(frozenset({"encoder.conv_in.weight", "decoder.bias"}), frozenset({"F32"}))


def looked_at(*paths: str, size: int = 1000, **fields: Any) -> ClassificationInputs:
    sizes = dict.fromkeys(paths, size) | fields.pop("sizes", {})
    return ClassificationInputs(sizes=sizes, ref="some/model", **fields)


def pipeline(*paths: str, index: dict[str, Any] | None = None, **fields: Any) -> Any:
    index = index or {"_class_name": "P", "unet": ["diffusers", "U"]}
    documents = {"model_index.json": index, **fields.pop("documents", {})}
    return looked_at("model_index.json", *paths, documents=documents, **fields)


def shards(stem: str, count: int = 2) -> list[str]:
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


# The rules, in order.


@pytest.mark.parametrize(
    ("inputs", "strategy", "library"),
    [
        (
            looked_at(
                "modules.json", "config.json", "model.safetensors", "1_Pooling/config.json",
                documents={"modules.json": [{"path": ""}, {"path": "1_Pooling"}]},
            ),
            "sentence_transformers",
            "sentence-transformers",
        ),
        (
            looked_at("adapter_config.json", "adapter_model.safetensors", "config.json"),
            "peft_canonical",
            "peft",
        ),
        (pipeline("unet/diffusion_pytorch_model.safetensors"), "diffusers", "diffusers"),
        (looked_at("config.json", "model.safetensors", "x.gguf"), "transformers", "transformers"),
        (looked_at("config.json", "x-Q4_K_M.gguf"), "gguf", "llama-cpp"),
        (
            looked_at("style.safetensors", headers={"style.safetensors": LORA}),
            "native_lora",
            "diffusers-lora",
        ),
        (
            looked_at("model.safetensors", "model.yaml", headers={"model.safetensors": FULL}),
            "aio_singlefile",
            "diffusers-single-file",
        ),
    ],
)  # fmt: skip
def test_the_first_rule_that_fits_decides(
    inputs: ClassificationInputs, strategy: str, library: str
) -> None:
    found = classify(inputs)
    assert (found.strategy, found.runtime_library) == (strategy, library)
    assert found.attributes["runtime_library"] == library
    assert set(found.files) | set(found.skipped) == set(inputs.sizes)
    assert found.selected_bytes + found.skipped_bytes == sum(inputs.sizes.values())


REFUSED = {
    "pickle_only": [
        looked_at("config.json", "pytorch_model.bin"),
        looked_at("adapter_config.json", "adapter_model.bin"),
        pipeline("unet/diffusion_pytorch_model.bin"),
    ],
    "tf_keras_only": [looked_at("config.json", "tf_model.h5"), looked_at("saved_model.pb")],
    "onnx_only": [looked_at("onnx/model.onnx", "onnx/model.onnx_data", "config.json")],
    "openvino_only": [looked_at("openvino_model.xml", "openvino_model.bin")],
    "tflite_only": [looked_at("model.tflite")],
    "tensorrt_only": [looked_at("unet.plan"), looked_at("model.engine")],
    "coreml_only": [looked_at("a.mlpackage/Data/weights/weight.x"), looked_at("a.mlmodel")],
    "flax_only": [looked_at("config.json", "flax_model.msgpack")],
    "nemo_only": [looked_at("model.nemo")],
    "unknown_shape": [
        looked_at("README.md", "data.csv"),
        looked_at("a.safetensors", "b.safetensors", headers={"b.safetensors": FULL}),
        looked_at("a.Q4_K_M.gguf", "b.Q4_K_M.gguf"),
        pipeline(
            "unet/diffusion_pytorch_model.safetensors", "unet/my_unet.py",
            index={"_class_name": "P", "unet": ["my_unet", "U"]},
        ),
    ],
    "too_large": [
        looked_at("config.json", "model.safetensors", size=21 * GIB),
        looked_at("m.safetensors.index.json", *shards("m", 6), "config.json", size=19 * GIB),
    ],
    "missing_safetensors": [
        looked_at("config.json", "pytorch_model.bin", "flax_model.msgpack"),
        pipeline(
            "unet/diffusion_pytorch_model.safetensors",
            index={"unet": ["diffusers", "U"], "vae": ["diffusers", "V"]},
        ),
        looked_at(
            "config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
            documents={"model.safetensors.index.json": {
                "weight_map": {"a": "model-00002-of-00002.safetensors"}}},
        ),
    ],
}  # fmt: skip


def test_every_kind_of_refusal_has_a_fixture() -> None:
    assert set(REFUSED) == set(REFUSALS) == set(get_args(RefusalKind))


@pytest.mark.parametrize(
    ("kind", "inputs"), [(kind, one) for kind, every in REFUSED.items() for one in every]
)
def test_what_cannot_be_converted_is_refused_by_kind(
    kind: str, inputs: ClassificationInputs
) -> None:
    with pytest.raises(RepoRefusal) as refused:
        classify(inputs)
    assert refused.value.refusal_kind == kind
    assert "some/model" in str(refused.value)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (type(again), again.ref, str(again)) == (
        type(refused.value),
        "some/model",
        str(refused.value),
    )


def test_large_models_are_fetched_when_allowed_and_warned_of() -> None:
    inputs = looked_at("m.safetensors.index.json", *shards("m", 6), "config.json", size=19 * GIB)
    assert "takes a while" in classify(inputs, allow_large=True).warnings[0]
    assert classify(looked_at("config.json", "model.safetensors")).warnings == ()
    # The limit of one file is that of uploads: nothing raises it.
    with pytest.raises(RepoRefusal, match="smaller shards"):
        classify(looked_at("config.json", "model.safetensors", size=21 * GIB), allow_large=True)


# What is an adapter.


@pytest.mark.parametrize(
    "names",
    [
        {"lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight", "lora_unet_x.alpha"},
        {"unet.a.attn1.to_q.lora_A.weight", "unet.a.attn1.to_q.lora_B.weight"},
        {"transformer.a.lora.down.weight", "transformer.a.lora.up.weight"},
        {"lora_te_x.hada_w1_a", "lora_te_x.hada_w1_b", "lora_te_x.alpha"},
        {"lycoris_x.lokr_w1", "lycoris_x.lokr_w2_a", "lycoris_x.lokr_w2_b"},
        {"base_model.model.l.0.q_proj.lora_A.default.weight"},
    ],
)
def test_adapters_are_told_by_the_names_of_their_tensors(names: set[str]) -> None:
    facts = SafetensorsFacts(frozenset(names), frozenset({"F16"}), "F16")
    inputs = looked_at("x.safetensors", size=5 * GIB, headers={"x.safetensors": facts})
    assert classify(inputs).strategy == "native_lora"


def test_a_small_lone_autoencoder_is_no_adapter_whatever_its_trainer_wrote() -> None:
    facts = FULL._replace(metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    inputs = looked_at(
        "vae.safetensors", headers={"vae.safetensors": facts}, card={"tags": ["lora"]}
    )
    assert classify(inputs).strategy == "aio_singlefile"


def test_where_no_header_could_be_read_metadata_and_tags_tell() -> None:
    for fields in (
        {"card": {"tags": ["art", "LoRA"]}},
        {"headers": {"x.safetensors": SafetensorsFacts(metadata={"ss_network_dim": "8"})}},
    ):
        assert classify(looked_at("x.safetensors", **fields)).strategy == "native_lora"
    assert classify(looked_at("x.safetensors")).strategy == "aio_singlefile"


# What is selected.


def test_one_precision_of_each_component_is_taken_with_all_its_shards() -> None:
    stem = "transformer/diffusion_pytorch_model"
    plain, variant = shards(stem), shards(f"{stem}.fp16")
    inputs = pipeline(
        *plain, *variant, f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json",
        f"{stem}.fp16.safetensors.index.json", "transformer/config.json", f"{stem}.bin",
        "vae/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "tokenizer/spiece.model", "safety_checker/pytorch_model.bin",
        "safety_checker/config.json", "README.md", "LICENSE.md", "assets/teaser.png", "code.py",
        index={
            "_class_name": "FluxPipeline", "transformer": ["diffusers", "T"],
            "vae": ["diffusers", "V"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "safety_checker": ["x", "S"], "image_encoder": [None, None],
        },
        documents={f"{stem}.fp16.safetensors.index.json": {
            "weight_map": {str(i): path.rpartition("/")[2] for i, path in enumerate(variant)}}},
    )  # fmt: skip
    found = classify(inputs)
    assert set(found.files) == {
        "model_index.json", "README.md", "LICENSE.md", "transformer/config.json", *variant,
        f"{stem}.fp16.safetensors.index.json", "vae/config.json", "tokenizer/vocab.json",
        "vae/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt",
        "tokenizer/spiece.model",
    }  # fmt: skip
    assert found.selections == {"transformer": "fp16"}
    assert found.attributes["pipeline_class"] == "FluxPipeline"
    assert found.pickle_files_refused == (
        "safety_checker/pytorch_model.bin",
        f"{stem}.bin",
    )
    full = classify(inputs, preference=("fp32", "bf16"))
    assert {*plain, f"{stem}.safetensors.index.json"} <= set(full.files)
    assert not set(variant) & set(full.files)


def test_headers_say_more_than_names() -> None:
    inputs = looked_at(
        "config.json", "model.safetensors", "model.fp16.safetensors",
        headers={
            "model.safetensors": SafetensorsFacts(dtypes=frozenset({"BF16"}), dtype="BF16"),
            "model.fp16.safetensors": SafetensorsFacts(dtypes=frozenset({"F16"}), dtype="F16"),
        },
    )  # fmt: skip
    found = classify(inputs)
    assert found.files == ("config.json", "model.safetensors")
    assert found.attributes["dtype"] == "bf16"


def test_copies_for_other_tools_are_left() -> None:
    found = classify(
        looked_at("config.json", "model.safetensors", "consolidated.safetensors", "x.onnx")
    )
    assert found.files == ("config.json", "model.safetensors")


QUANTS = ("m-F16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-IQ2_XXS.gguf", "m-Q4_0.gguf")


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("", "m-F16.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("gguf:Q8_0", "m-Q8_0.gguf"),
        ("4bit", "m-Q4_K_M.gguf"),
        ("iq2_xxs", "m-IQ2_XXS.gguf"),
        ("fp16", "m-F16.gguf"),
    ],
)
def test_one_gguf_is_taken(asked: str, taken: str) -> None:
    inputs = looked_at("mmproj-m-f16.gguf", "imatrix.gguf", "config.json", *QUANTS)
    found = classify(inputs, gguf_quant=asked)
    assert found.files == tuple(sorted(("config.json", taken)))
    assert found.selections[""] in taken.lower()


def test_a_quantization_that_is_not_there_is_said() -> None:
    for asked in ("q2_k", "3bit"):
        with pytest.raises(ValidationError, match="q4_k_m"):
            classify(looked_at(*QUANTS), gguf_quant=asked)


def test_all_parts_of_a_split_gguf_are_taken() -> None:
    parts = [f"m-Q4_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert classify(looked_at(*parts, "m-Q2_K.gguf")).files == tuple(parts)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Llama-3-8B.Q4_K_M.gguf", "q4_k_m"),
        ("x-IQ3_XXS.gguf", "iq3_xxs"),
        ("x.iq4_nl.gguf", "iq4_nl"),
        ("x-Q4_0_4_8-00001-of-00003.gguf", "q4_0_4_8"),
        ("bf16-tuned-Q6_K.gguf", "q6_k"),
        ("x-fp16.gguf", "f16"),
        ("x-BF16.gguf", "bf16"),
        ("model.gguf", ""),
        ("x-Q9_Z.gguf", ""),
    ],
)
def test_quantizations_are_read_from_names(name: str, quant: str) -> None:
    assert gguf_quant_of(name) == quant


# Attributes.


@pytest.mark.parametrize(
    ("config", "subtype"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}}, "vlm"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "image_token_id": 1}, "vlm"),
        ({"architectures": ["ViTForImageClassification"]}, "encoder"),
        ({"architectures": ["CLIPModel"], "vision_config": {}, "text_config": {}}, "encoder"),
        ({"architectures": ["ASTForAudioClassification"], "model_type": "a"}, "audio"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "audio"),
        ({"architectures": ["X"], "quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
         "encoder_decoder"),
        ({"architectures": ["LlamaForCausalLM"]}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"]}, "decoder"),
        ({"architectures": ["BertModel"]}, "encoder"),
    ],
)  # fmt: skip
def test_subtypes_of_transformers(config: dict[str, Any], subtype: str) -> None:
    paths = ("config.json", "model.safetensors", "preprocessor_config.json")
    found = classify(looked_at(*paths, documents={"config.json": config}))
    assert found.subtype == found.attributes["subtype"] == subtype


def attributes(*paths: str, **fields: Any) -> dict[str, str]:
    return dict(classify(looked_at(*paths, **fields)).attributes)


def test_adapters_say_what_they_were_made_from() -> None:
    config = {"base_model_name_or_path": "Qwen/Qwen2.5-7B", "revision": "main", "r": 8,
              "lora_alpha": 16, "peft_type": "LORA", "task_type": "CAUSAL_LM"}  # fmt: skip
    told = attributes(
        "adapter_config.json", "adapter_model.safetensors", card={"base_model": "other/one"},
        documents={"adapter_config.json": config},
    )  # fmt: skip
    assert told == {
        "runtime_library": "peft", "file_layout": "peft", "file_type": "safetensors",
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": "8", "lora_alpha": "16",
        "base_model_repo": "Qwen/Qwen2.5-7B", "base_model_revision": "main",
        "base_model_family": "qwen-2-5-7b", "lineage_source": "adapter_config_json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"card": {"base_model": ["black-forest-labs/FLUX.1-dev"]}},
            {"base_model_repo": "black-forest-labs/FLUX.1-dev", "base_model_family": "flux1-dev",
             "lineage_source": "yaml_frontmatter"},
        ),
        (
            {"metadata": {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "32",
                          "ss_network_module": "networks.lora", "ss_sd_model_name": "x.ckpt"}},
            {"base_model_family": "sdxl", "lineage_source": "kohya_safetensors_metadata",
             "network_dim": "32", "network_module": "networks.lora",
             "base_model_specific_hint": "x.ckpt"},
        ),
        (
            {"card": {"tags": ["art", "flux"]}},
            {"base_model_family": "flux1-dev", "lineage_source": "yaml_tags"},
        ),
        ({}, {"lineage_source": "unknown"}),
    ],
)  # fmt: skip
def test_lineage_comes_from_the_first_that_tells(
    fields: dict[str, Any], expected: dict[str, str]
) -> None:
    facts = LORA._replace(metadata=fields.pop("metadata", {}))
    told = attributes("x.safetensors", headers={"x.safetensors": facts}, **fields)
    assert {name: told.get(name) for name in expected} == expected


def test_a_model_of_its_own_has_no_lineage() -> None:
    assert attributes("config.json", "model.safetensors")["lineage_source"] == "none"
    scheme = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    told = attributes("config.json", "model.safetensors", documents={"config.json": scheme})
    assert told["quant_scheme"] == "gptq-4bit"
    autoencoder = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.3"}
    told = attributes(
        "config.json",
        "diffusion_pytorch_model.safetensors",
        documents={"config.json": autoencoder},
    )
    assert (told["runtime_library"], told["architecture"]) == ("diffusers", "AutoencoderKL")


# Names.


@pytest.mark.parametrize(
    ("path", "component", "base", "dtype", "shard"),
    [
        ("unet/model.fp16.safetensors", "unet", "unet/model", "fp16", (0, 0)),
        ("model.safetensors", "", "model", "fp32", (0, 0)),
        ("a/x.fp16-00001-of-00002.safetensors", "a", "a/x", "fp16", (1, 2)),
        ("a/x-00002-of-00002.bf16.safetensors", "a", "a/x", "bf16", (2, 2)),
        ("flux_fp8_e4m3.safetensors", "", "flux", "fp8_e4m3", (0, 0)),
        ("pytorch_model-00001-of-00003.bin", "", "pytorch_model", "fp32", (1, 3)),
        ("m.Q4_K_M.gguf", "", "m.Q4_K_M", "q4_k_m", (0, 0)),
    ],
)
def test_weight_files_are_read_by_their_names(
    path: str, component: str, base: str, dtype: str, shard: tuple[int, int]
) -> None:
    info = parse_weight_file(path)
    assert info is not None
    assert (info.component, info.base_key, info.dtype) == (component, base, dtype)
    assert (info.shard_index, info.shard_count, info.is_sharded) == (*shard, bool(shard[1]))


def test_other_files_are_no_weights() -> None:
    assert parse_weight_file("config.json") is None


def test_one_precision_is_kept_by_names_alone() -> None:
    files = ["a/m.safetensors", "a/m.fp16.safetensors", "b/m.bf16.safetensors", "b/config.json"]
    kept, dropped, chosen = filter_by_source_dtype_preference(files, preference=["fp16"])
    assert kept == ["a/m.fp16.safetensors", "b/m.bf16.safetensors", "b/config.json"]
    assert dropped == ["a/m.safetensors"]
    assert chosen == {"a/m": "fp16", "b/m": "bf16"}


@given(st.text(max_size=40))
def test_any_path_is_read(path: str) -> None:
    for name in (path, f"{path}.safetensors"):
        info = parse_weight_file(name)
        assert info is None or info.rel_path == name


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_any_document_and_header_is_read(value: Any) -> None:
    facts = safetensors_facts(value)
    inputs = ClassificationInputs(
        sizes={"config.json": 1, "x.safetensors": 1, "model_index.json": 1},
        documents={"config.json": value, "model_index.json": value},
        card=value if isinstance(value, dict) else {},
        headers={"x.safetensors": facts},
    )
    try:
        assert isinstance(classify(inputs), Classification)
    except RepoRefusal:
        pass


# Files that are here.


def weights(path: Path, *tensors: tuple[str, str, list[int]]) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, dtype, shape in tensors:
        size = DTYPE_BITS[dtype] // 8
        for count in shape:
            size *= count
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_the_largest_tensor_tells_the_precision(tmp_path: Path) -> None:
    weights(tmp_path / "x.safetensors", ("norm", "F32", [4]), ("w", "BF16", [8, 8]))
    assert read_safetensors_header_dtype(tmp_path / "x.safetensors") == "bf16"
    weights(tmp_path / "y.safetensors")
    assert read_safetensors_header_dtype(tmp_path / "y.safetensors") == ""


@pytest.mark.parametrize(
    ("index", "variant", "family"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "sdxl", "sdxl"),
        ({"_class_name": "StableDiffusionPipeline"}, "sd15", "sd15_sd2"),
        ({"_class_name": "StableDiffusion3Pipeline"}, "unknown", "unknown"),
        ({"_class_name": "FluxPipeline"}, "flux1", "flux"),
        ({"_class_name": "Flux2KleinPipeline"}, "flux2", "flux"),
        ({"_class_name": "WanPipeline"}, "wan21", "wan"),
        ({"_class_name": "WanPipeline", "transformer_2": ["d", "W"]}, "wan22", "wan"),
        ({"_class_name": "PixArtSigmaPipeline", "transformer": ["d", "T"]}, "unknown", "unknown"),
        ({"_class_name": "X", "_name_or_path": "stabilityai/sdxl-turbo"}, "sdxl", "sdxl"),
    ],
)
def test_the_class_tells_the_family_and_folders_do_not(
    tmp_path: Path, index: dict[str, Any], variant: str, family: str
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    files = ["model_index.json", "transformer/x.safetensors", "text_encoder_2/y.safetensors"]
    found = detect_huggingface_source_layout(repo_dir=tmp_path, files=files)
    assert (found.source_layout, found.model_family_variant) == ("diffusers", variant)
    assert found.model_family == family


def test_a_single_file_is_told_by_its_tensors(tmp_path: Path) -> None:
    weights(tmp_path / "flux-sdxl.safetensors", ("conditioner.embedders.1.model.x", "F16", [2]))
    found = detect_huggingface_source_layout(repo_dir=tmp_path, files=["flux-sdxl.safetensors"])
    assert found[:3] == ("singlefile", "sdxl", "sdxl")
    weights(tmp_path / "flux1-vae.safetensors", ("decoder.x", "F16", [2]))
    found = detect_huggingface_source_layout(repo_dir=tmp_path, files=["flux1-vae.safetensors"])
    assert found[:3] == ("singlefile", "unknown", "unknown")


def test_folders_of_components_are_a_pipeline_of_no_known_family(tmp_path: Path) -> None:
    """Newer pipelines have the same folders: what they are is not guessed."""
    files = ["transformer/diffusion_pytorch_model.safetensors", "vae/x.safetensors"]
    found = detect_huggingface_source_layout(repo_dir=tmp_path, files=files)
    assert found[:3] == ("diffusers", "unknown", "unknown")


def test_a_lone_adapter_is_a_layout_of_its_own(tmp_path: Path) -> None:
    names = ("lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight", "lora_unet_a.alpha")
    weights(tmp_path / "style.safetensors", *((name, "F16", [2]) for name in names))
    found = detect_huggingface_source_layout(repo_dir=tmp_path, files=["style.safetensors"])
    assert found.source_layout == "native_lora"


def test_the_refusals_can_be_enumerated_and_not_changed() -> None:
    assert all(cls.refusal_kind == kind and cls.__doc__ for kind, cls in REFUSALS.items())
    assert len(set(REFUSALS.values())) == len(REFUSALS) == 12
    with pytest.raises(TypeError):
        REFUSALS["pickle_only"] = RepoRefusal  # type: ignore[index]
