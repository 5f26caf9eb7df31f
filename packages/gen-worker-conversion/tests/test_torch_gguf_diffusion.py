"""Denoisers become GGUF files that diffusers loads; GGUF files become others, or plain weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion import write_safetensors
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.diffusion import plan_diffusion_model
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.files import plan_gguf_file, unpacked
from gen_worker.conversion.gguf.models import GgufPlan, plan_language_model
from gen_worker.conversion.gguf.writing import write_gguf
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_flux, tiny_llama, tiny_stable_diffusion_xl

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def written(plan: GgufPlan, path: Path) -> Path:
    made = write_gguf(plan.tensors, plan.metadata, path, max_name_bytes=plan.max_name_bytes)
    return Path(made.path)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_flux(tmp_path_factory.mktemp("flux"))) / "transformer"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("llama")))


def test_diffusers_loads_a_transformer_and_computes_with_its_blocks(
    flux: Path, tmp_path: Path
) -> None:
    plan = plan_diffusion_model(flux, "q8_0")
    assert plan.architecture == "flux"
    assert {plan.types[name] for name in plan.types if "embed" in name} == {"F32"}
    blocks = [name for name, used in plan.types.items() if used == "Q8_0"]
    assert any("attn.to_q" in name for name in blocks)
    file = written(plan, tmp_path / "flux.gguf")
    kind = diffusers.FluxTransformer2DModel
    made = kind.from_single_file(
        str(file),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        config=str(flux),
        torch_dtype=torch.float32,
    )
    held = kind.from_pretrained(flux)
    held.load_state_dict({name: value.tensor() for name, value in unpacked(file).items()})
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 4, held.config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(
            1, 5, held.config.joint_attention_dim, generator=generator
        ),
        "pooled_projections": torch.randn(
            1, held.config.pooled_projection_dim, generator=generator
        ),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(5, 3),
        "guidance": torch.tensor([1.0]) if held.config.guidance_embeds else None,
    }
    with torch.no_grad():
        found, wanted = made(**inputs).sample, held(**inputs).sample
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_unet_keeps_its_convolutions_and_its_long_names(tmp_path: Path) -> None:
    unet = Path(tiny_stable_diffusion_xl(tmp_path / "sdxl")) / "unet"
    plan = plan_diffusion_model(unet, "q4_0")
    assert plan.architecture == "sdxl"
    source = open_checkpoint(unet)
    file = written(plan, tmp_path / "unet.gguf")
    assert list(read_gguf_header(str(file)).tensors) == list(source)
    for name, tensor in source.items():
        assert (plan.types[name] == "F32") == (
            len(tensor.shape) != 2 or name.startswith(("time_embedding", "add_embedding"))
        ), name
    same = plan_diffusion_model(
        unet / "diffusion_pytorch_model.safetensors", "q4_0", architecture="sdxl"
    )
    assert same.types == plan.types


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("", "gguf_missing_config_json"),
        ({"_class_name": "AutoencoderKL"}, "unsupported_gguf_architecture_from_config"),
    ],
)
def test_other_components_are_refused(said: Any, code: str, tmp_path: Path) -> None:
    if said:
        (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(GgufSourceError) as caught:
        plan_diffusion_model(tmp_path, "q8_0")
    assert caught.value.code == code


def test_plain_files_become_others_and_packed_ones_only_if_that_is_wanted(
    llama: Path, tmp_path: Path
) -> None:
    whole = written(plan_language_model(llama, "f32"), tmp_path / "whole.gguf")
    direct = written(plan_language_model(llama, "q4_k_m"), tmp_path / "direct.gguf")
    plan = plan_gguf_file(whole, "q4_k_m")
    again = written(plan, tmp_path / "again.gguf")
    assert unpacked_values(again) == unpacked_values(direct)
    before, after = (read_gguf_header(str(file)).metadata for file in (direct, again))
    assert dict(before) == dict(after)
    with pytest.raises(
        ConversionInputError, match="start from the model in full precision"
    ) as caught:
        plan_gguf_file(direct, "q8_0")
    assert caught.value.tensor
    twice = written(plan_gguf_file(direct, "q8_0", allow_requantize=True), tmp_path / "twice.gguf")
    assert read_gguf_header(str(twice)).metadata["general.file_type"] == 7


def test_blocks_become_plain_weights(llama: Path, tmp_path: Path) -> None:
    packed = written(plan_language_model(llama, "q8_0"), tmp_path / "packed.gguf")
    made = write_safetensors(unpacked(packed, "BF16"), tmp_path / "plain")
    found = safetensors_torch.load_file(made.path)
    for name, tensor in open_checkpoint(packed).items():
        assert torch.equal(found[name], tensor.tensor().bfloat16())


def unpacked_values(file: Path) -> dict[str, list[float]]:
    return {name: value.tensor().flatten().tolist() for name, value in unpacked(file).items()}


def test_split_files_are_one_source(llama: Path, tmp_path: Path) -> None:
    plan = plan_language_model(llama, "f32")
    whole = written(plan, tmp_path / "whole.gguf")
    made = write_gguf(plan.tensors, plan.metadata, tmp_path / "m.gguf", split_max_bytes=50_000)
    assert len(made.files) > 2
    assert unpacked_values(Path(made.path)) == unpacked_values(whole)
    again = plan_gguf_file(made.path, "q8_0")
    assert set(again.types) == set(plan.types)
    assert not any(key.startswith("split.") for key in again.metadata)
    with pytest.raises(ConversionInputError, match="give the first"):
        unpacked(made.files[1].path)
    Path(made.files[2].path).unlink()
    with pytest.raises(ConversionInputError, match="beside it") as caught:
        plan_gguf_file(made.path, "q8_0")
    assert caught.value.file == made.files[2].path
