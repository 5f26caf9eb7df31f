"""What inspection says of models, adapters and GGUF files: by headers alone, without torch."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.conversion.convert import ModelFacts, inspect_model
from gen_worker.conversion.gguf.container import TensorEntry, gguf_header
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora.reading import number_of

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, tuple[str, list[int]]]


def lora(name: str, *, rank: int = 4, width: int = 8, rows: int = 6) -> Tensors:
    """Return the tensors of one module as kohya names them; alpha is 1."""
    return {
        f"{name}.lora_down.weight": ("F32", [rank, width]),
        f"{name}.lora_up.weight": ("F32", [rows, rank]),
        f"{name}.alpha": ("F32", []),
    }


def adapter_of(path: Path) -> dict[str, Any]:
    facts = json.loads(msgspec.json.encode(inspect_model(path)))
    assert facts["refusals"] == []
    return dict(facts["adapter"])


def test_a_lora_of_kohya_is_this_document(tmp_path: Path, small_models: Any) -> None:
    path = tmp_path / "style.safetensors"
    block = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2"
    tensors = {
        **lora(f"{block}_to_k", width=2048),
        **lora(f"{block}_to_out_0", rank=2),
        **lora("lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        "strange": ("F32", [1]),
    }
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "xl.safetensors"}
    path.write_bytes(small_models.file(tensors, metadata))

    facts = inspect_model(path)

    document = json.loads(msgspec.json.encode(facts))
    assert document == {
        "path": str(path),
        "layout": "native_lora",
        "family": "sdxl",
        "class_name": "",
        "components": [
            {
                "name": "",
                "class_name": "",
                "files": 1,
                "tensors": 10,
                "parameters": 4 * 2048 + 24 + 1 + 16 + 12 + 1 + 32 + 24 + 1 + 1,
                "size_bytes": 4 * (4 * 2048 + 24 + 1 + 16 + 12 + 1 + 32 + 24 + 1 + 1),
                "dtypes": {"F32": 4 * (4 * 2048 + 24 + 1 + 16 + 12 + 1 + 32 + 24 + 1 + 1)},
                "quantization": "",
            }
        ],
        "adapter": {
            "format": "kohya",
            "networks": ["lora"],
            "family": "sdxl",
            "components": [
                {
                    "name": "text_encoder",
                    "modules": 1,
                    "ranks": [4],
                    "alphas": [1.0],
                    "targets": {"fc1": 1},
                },
                {
                    "name": "unet",
                    "modules": 2,
                    "ranks": [2, 4],
                    "alphas": [1.0],
                    "targets": {"to_k": 1, "to_out.0": 1},
                },
            ],
            "lineage": {
                "base_model_family": "sdxl",
                "base_model_lineage": "sdxl_base_v1-0",
                "base_model_specific_hint": "xl.safetensors",
                "lineage_source": "kohya_safetensors_metadata",
            },
            "unknown": ["strange"],
        },
        "gguf": None,
        "refusals": [],
    }
    assert msgspec.convert(document, ModelFacts) == facts


def test_the_folder_of_an_adapter_of_peft(tmp_path: Path, small_models: Any) -> None:
    config = {
        "base_model_name_or_path": "meta-llama/Llama-3.2-1B",
        "lora_alpha": 16,
        "alpha_pattern": {"v_proj": 8},
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    attention = "base_model.model.model.layers.0.self_attn"
    tensors: Tensors = {}
    for name in ("q_proj", "v_proj"):
        tensors[f"{attention}.{name}.lora_A.weight"] = ("BF16", [8, 16])
        tensors[f"{attention}.{name}.lora_B.weight"] = ("BF16", [16, 8])
    (tmp_path / "adapter_model.safetensors").write_bytes(small_models.file(tensors))

    facts = inspect_model(tmp_path)

    assert (facts.layout, facts.family) == ("peft", "llama-3-2-1b")
    assert facts.adapter is not None
    assert facts.adapter.format == "peft"
    assert facts.adapter.lineage["base_model_repo"] == "meta-llama/Llama-3.2-1B"
    [part] = facts.adapter.components
    assert (part.name, part.ranks, part.alphas) == ("", (8,), (8.0, 16.0))


def test_a_folder_with_an_adapter_of_peft_for_each_component(
    tmp_path: Path, small_models: Any
) -> None:
    for component, module in (("unet", "mid_block.x"), ("text_encoder", "text_model.y")):
        (tmp_path / component).mkdir()
        (tmp_path / component / "adapter_config.json").write_text("{}")
        name = f"base_model.model.{module}"
        tensors = {
            f"{name}.lora_A.weight": ("F32", [2, 4]),
            f"{name}.lora_B.weight": ("F32", [4, 2]),
        }
        (tmp_path / component / "adapter_model.safetensors").write_bytes(small_models.file(tensors))

    facts = inspect_model(tmp_path)

    assert facts.layout == "peft"
    assert [part.name for part in facts.components] == ["text_encoder", "unet"]
    assert facts.adapter is not None
    assert [part.name for part in facts.adapter.components] == ["text_encoder", "unet"]


def test_a_file_of_diffusers_has_its_alphas_in_the_header(
    tmp_path: Path, small_models: Any
) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tensors = {
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": ("F32", [4, 8]),
        "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": ("F32", [8, 4]),
    }
    told = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})
    path.write_bytes(small_models.file(tensors, {"lora_adapter_metadata": told}))

    facts = adapter_of(path)

    assert (facts["format"], facts["family"]) == ("diffusers", "flux1")
    assert facts["components"][0]["alphas"] == [2.0]
    assert facts["lineage"] == {"lineage_source": "unknown"}


@pytest.mark.parametrize(
    ("parts", "network", "ranks"),
    [
        ({"hada_w1_a": [8, 3], "hada_w1_b": [3, 8], "hada_w2_a": [8, 3]}, "loha", [3]),
        ({"lokr_w1": [2, 2], "lokr_w2_a": [4, 5], "lokr_w2_b": [5, 4]}, "lokr", [5]),
        ({"lokr_w1": [2, 2], "lokr_w2": [4, 4]}, "lokr", []),
        ({"lora_down.weight": [2, 8], "lora_up.weight": [8, 2], "dora_scale": [8, 1]}, "dora", [2]),
        ({"oft_blocks": [2, 4, 4]}, "oft", []),
    ],
)
def test_the_network_is_named(
    parts: dict[str, list[int]], network: str, ranks: list[int], tmp_path: Path, small_models: Any
) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    path = tmp_path / "some.safetensors"
    tensors = {f"{module}.{part}": ("F32", shape) for part, shape in parts.items()}
    path.write_bytes(small_models.file(tensors))

    facts = adapter_of(path)

    assert facts["networks"] == [network]
    [component] = facts["components"]
    assert (component["name"], component["modules"]) == ("unet", 1)
    assert component["ranks"] == ranks


@pytest.mark.parametrize(
    ("names", "form", "family"),
    [
        (["diffusion_model.double_blocks.0.img_attn.qkv"], "comfyui", "flux1"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv"], "kohya", "sd3"),
        (["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"], "diffusers", "sd15"),
        (["lora_unet_mid_block_attentions_0_proj_in"], "kohya", "unknown"),
    ],
)
def test_a_family_is_told_by_names_and_widths(
    names: list[str], form: str, family: str, tmp_path: Path, small_models: Any
) -> None:
    path = tmp_path / "some.safetensors"
    tensors: Tensors = {}
    for name in names:
        tensors |= lora(name, width=768)
    path.write_bytes(small_models.file(tensors))

    facts = adapter_of(path)

    assert (facts["format"], facts["family"]) == (form, family)


def test_numbers_of_every_precision_are_read_without_torch(tmp_path: Path) -> None:
    header: dict[str, Any] = {}
    content = b""
    values = {
        "F64": struct.pack("<d", 1.5),
        "F32": struct.pack("<f", 1.5),
        "F16": struct.pack("<e", 1.5),
        "BF16": struct.pack("<f", 1.5)[2:],
        "U8": b"\x01",
    }
    for dtype, value in values.items():
        end = len(content) + len(value)
        header[dtype] = {"dtype": dtype, "shape": [], "data_offsets": [len(content), end]}
        content += value
    text = json.dumps(header).encode()
    path = tmp_path / "n.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)

    found = {name: number_of(tensor) for name, tensor in open_checkpoint(path).items()}

    assert found == {"F64": 1.5, "F32": 1.5, "F16": 1.5, "BF16": 1.5, "U8": None}


def gguf(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], **metadata: Any) -> Path:
    entries = {name: TensorEntry(kind, shape) for name, (kind, shape) in tensors.items()}
    facts = {"general.architecture": "llama", "general.name": "Tiny", **metadata}
    header = gguf_header(facts, entries)
    path.write_bytes(header.content + bytes(header.size_bytes - len(header.content)))
    return path


MIX = {
    "blk.0.attn_q.weight": ("Q4_K", (4, 256)),
    "blk.0.attn_v.weight": ("Q6_K", (4, 256)),
    "blk.0.attn_norm.weight": ("F32", (256,)),
    "blk.1.attn_q.weight": ("Q4_K", (4, 256)),
}


def test_a_gguf_file_names_its_mix(tmp_path: Path) -> None:
    facts = inspect_model(gguf(tmp_path / "tiny.gguf", MIX, **{"general.file_type": 15}))

    assert json.loads(msgspec.json.encode(facts.gguf)) == {
        "name": "Tiny",
        "kind": "model",
        "architecture": "llama",
        "file_type": "q4_k_m",
        "types": {"Q4_K": 2, "Q6_K": 1, "F32": 1},
        "parts": 1,
        "missing_parts": [],
        "missing_tensors": 0,
    }
    assert (facts.layout, facts.adapter, facts.refusals) == ("gguf", None, ())
    assert facts.components[0].dtypes == {"Q4_K": 1152, "Q6_K": 840, "F32": 1024}


def test_any_part_of_a_split_file_stands_for_all(tmp_path: Path) -> None:
    count = {"split.count": 2, "split.tensors.count": 4}
    names = list(MIX)
    first, second = (
        gguf(
            tmp_path / f"tiny-0000{number + 1}-of-00002.gguf",
            {name: MIX[name] for name in names[2 * number : 2 * number + 2]},
            **count,
            **{"split.no": number},
        )
        for number in range(2)
    )

    for place in (first, second, tmp_path):
        facts = inspect_model(place)
        assert facts.gguf is not None
        assert (facts.gguf.parts, facts.gguf.is_complete, facts.tensors) == (2, True, 4)
        assert (facts.components[0].files, facts.refusals) == (2, ())

    second.unlink()
    facts = inspect_model(first)
    assert facts.gguf is not None
    assert facts.gguf.missing_parts == (second.name,)
    assert "of which 'tiny-00002-of-00002.gguf' are missing" in facts.refusals[0]


def test_parts_with_too_few_tensors_are_refused(tmp_path: Path) -> None:
    facts = inspect_model(gguf(tmp_path / "tiny.gguf", MIX, **{"split.tensors.count": 6}))

    assert facts.gguf is not None
    assert not facts.gguf.is_complete
    assert "lacks 2 tensors" in facts.refusals[0]


def test_several_gguf_models_in_a_folder_are_not_one(tmp_path: Path) -> None:
    gguf(tmp_path / "a-q4.gguf", MIX)
    gguf(tmp_path / "a-q8.gguf", MIX)

    facts = inspect_model(tmp_path)

    assert (facts.components, facts.gguf) == ((), None)
    assert "has 2 GGUF models, 'a-q4.gguf'" in facts.refusals[0]
