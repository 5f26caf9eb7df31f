"""Stable Diffusion's components under their original names, and back, with nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.layout.moves import Fused, Move, to_diffusers, to_original
from gen_worker.conversion.layout.text_encoders import clip_moves, open_clip_moves
from gen_worker.conversion.layout.unet import unet_moves
from gen_worker.conversion.layout.vae import vae_moves
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.tiny import tiny_stable_diffusion, tiny_stable_diffusion_xl

if TYPE_CHECKING:
    from gen_worker.conversion.lazy import Checkpoint


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {
        "sd15": Path(tiny_stable_diffusion(root / "sd15")),
        "sdxl": Path(tiny_stable_diffusion_xl(root / "sdxl")),
    }


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def _prefix(checkpoint: Checkpoint) -> str:
    return "text_model" if any(name.startswith("text_model.") for name in checkpoint) else ""


def _moves(kind: str, folder: Path, checkpoint: Checkpoint) -> list[Move | Fused]:
    if kind == "unet":
        return [*unet_moves(_config(folder))]
    if kind == "vae":
        return [*vae_moves(_config(folder))]
    if kind == "text_encoder_2":
        return [*open_clip_moves(_config(folder), _prefix(checkpoint))]
    return [*clip_moves(_prefix(checkpoint))]


@pytest.mark.parametrize(
    ("family", "component"),
    [
        ("sd15", "unet"),
        ("sd15", "vae"),
        ("sd15", "text_encoder"),
        ("sdxl", "unet"),
        ("sdxl", "text_encoder"),
        ("sdxl", "text_encoder_2"),
    ],
)
def test_there_and_back_is_the_same(
    family: str, component: str, pipelines: dict[str, Path]
) -> None:
    folder = pipelines[family] / component
    checkpoint = open_checkpoint(folder)
    moves = _moves(component, folder, checkpoint)
    there = to_original(checkpoint, moves)
    assert (there.extra, there.missing) == ((), ())
    back = to_diffusers(there.tensors, moves)
    assert (back.extra, back.missing) == ((), ())
    assert set(back.tensors) == set(checkpoint)
    for name, tensor in checkpoint.items():
        assert torch.equal(back.tensors[name].tensor(), tensor.tensor()), name


def test_what_is_too_much_and_too_little_is_named(pipelines: dict[str, Path]) -> None:
    folder = pipelines["sd15"] / "unet"
    checkpoint = open_checkpoint(folder)
    moves = [*unet_moves(_config(folder))]
    given = {name: one for name, one in checkpoint.items() if not name.startswith("conv_in.")}
    given["something.else"] = checkpoint["conv_out.bias"]
    moved = to_original(given, moves)
    assert moved.extra == ("something.else",)
    assert moved.missing == ("input_blocks.0.0",)


def test_half_of_a_joined_tensor_is_refused(pipelines: dict[str, Path]) -> None:
    folder = pipelines["sdxl"] / "text_encoder_2"
    checkpoint = open_checkpoint(folder)
    given = {name: one for name, one in checkpoint.items() if not name.endswith("k_proj.bias")}
    moves = open_clip_moves(_config(folder), _prefix(checkpoint))
    with pytest.raises(ConversionInputError, match=r"k_proj\.bias is missing"):
        to_original(given, moves)
