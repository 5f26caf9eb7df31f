"""A denoiser alone goes from each layout to each other; tensors in files of another size."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.errors import ConversionInputError, NotImplementedFamilyError
from gen_worker.conversion.layout.denoisers import convert_denoiser, renamed_denoiser, reshard
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.tiny import tiny_flux, tiny_stable_diffusion_3

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("make", [tiny_flux, tiny_stable_diffusion_3])
def test_each_layout_becomes_each_other(make: Any, tmp_path: Path) -> None:
    source = tmp_path / "pipe" / "transformer"
    make(tmp_path / "pipe")
    comfyui, bare = tmp_path / "comfyui.safetensors", tmp_path / "bare.safetensors"
    convert_denoiser(source, comfyui, to="comfyui")
    names = set(open_checkpoint(comfyui))
    assert all(name.startswith("model.diffusion_model.") for name in names)
    convert_denoiser(comfyui, bare, to="original", config_dir=source)
    assert {f"model.diffusion_model.{name}" for name in open_checkpoint(bare)} == names
    for file in (comfyui, bare):
        convert_denoiser(file, tmp_path / file.stem, to="diffusers", config_dir=source)
        again = open_checkpoint(tmp_path / file.stem)
        for name, tensor in open_checkpoint(source).items():
            assert torch.equal(again[name].tensor(), tensor.tensor()), name
        assert json.loads((tmp_path / file.stem / "config.json").read_text())["_class_name"]


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    tiny_flux(tmp_path / "pipe")
    checkpoint = open_checkpoint(tmp_path / "pipe" / "transformer")
    with pytest.raises(ConversionInputError, match=r"needs its config\.json"):
        renamed_denoiser(checkpoint, "original")
    with pytest.raises(NotImplementedFamilyError, match="SanaTransformer2DModel"):
        renamed_denoiser(checkpoint, "original", config={"_class_name": "SanaTransformer2DModel"})
    original = tmp_path / "flux.safetensors"
    convert_denoiser(tmp_path / "pipe" / "transformer", original, to="original")
    bare = dict(open_checkpoint(original))
    _, config = renamed_denoiser(bare, "diffusers")
    assert (config["num_attention_heads"], config["attention_head_dim"]) == (2, 16)
    del bare["img_in.weight"], bare["img_in.bias"]
    known = json.loads((tmp_path / "pipe" / "transformer" / "config.json").read_text())
    moved, _ = renamed_denoiser(bare, "diffusers", config=known)
    assert moved.missing == ("img_in",)


def test_files_of_another_size(tmp_path: Path) -> None:
    tiny_flux(tmp_path / "pipe")
    source = open_checkpoint(tmp_path / "pipe" / "text_encoder_2")
    shards = reshard(tmp_path / "pipe" / "text_encoder_2", tmp_path / "many", max_shard_bytes=20000)
    assert len(shards.files) > 2
    assert shards.index_file is not None
    single = reshard(tmp_path / "many", tmp_path / "one", max_shard_bytes=sys.maxsize)
    assert [file.path for file in single.files] == [str(tmp_path / "one" / "model.safetensors")]
    again = open_checkpoint(single.path)
    assert set(again) == set(source)
    for name, tensor in source.items():
        assert torch.equal(again[name].tensor(), tensor.tensor())
