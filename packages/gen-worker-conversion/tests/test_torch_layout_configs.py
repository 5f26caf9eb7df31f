"""The configuration of a published model, told from the shapes of its tensors alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.layout.configs import inferred_config
from gen_worker.conversion.layout.families import LAYOUTS
from gen_worker.conversion.layout.repack import pack, parts_in
from gen_worker.conversion.lazy import LazyTensor

if TYPE_CHECKING:
    from gen_worker.conversion.layout.families import Layout


diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")


class _Shape(LazyTensor):
    """A tensor of which nothing but the shape is asked."""

    @property
    def inputs(self) -> tuple[LazyTensor, ...]:
        return ()

    def rows(self, start: int, stop: int) -> Any:
        raise AssertionError("a configuration was told from values")


_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
    "sdxl-refiner": {
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 4, 4, 4],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
        "sample_size": 128,
    },
}
_TRANSFORMERS: dict[str, tuple[str, Any]] = {
    "sd3-medium": (
        "SD3Transformer2DModel",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
    ),
    "sd35-medium": (
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)),
        },
    ),
    "flux1-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux1-schnell": ("FluxTransformer2DModel", {}),
}
_MODELS = [
    *((family, "UNet2DConditionModel", config) for family, config in _UNETS.items()),
    *((family, *entry) for family, entry in _TRANSFORMERS.items()),
]


@pytest.mark.parametrize(("family", "cls", "config"), _MODELS, ids=[one[0] for one in _MODELS])
def test_the_published_sizes_are_told_from_shapes(
    family: str, cls: str, config: dict[str, Any]
) -> None:
    by_start = {"sd3": "sd3", "sd35": "sd3", "flux1": "flux1"}
    layout = LAYOUTS[by_start.get(family.partition("-")[0], family)]
    if cls == "SD3Transformer2DModel":
        config = {"sample_size": 128, "out_channels": 16, "pos_embed_max_size": 192, **config}
    with torch.device("meta"):
        model = getattr(diffusers, cls)(**config)
    tensors = {name: _Shape(one.shape, "F32") for name, one in model.state_dict().items()}
    name = layout.denoiser.component
    packed = pack(layout, {name: tensors}, {name: dict(model.config)})
    assert (packed.extra, packed.missing) == ((), ())
    parts, extra = parts_in(layout, packed.tensors)
    assert not extra
    found = inferred_config(layout, parts).components[name]
    with torch.device("meta"):
        again = getattr(diffusers, cls)(**{k: v for k, v in found.items() if k[0] != "_"})
    for key, value in found.items():
        expected = model.config.get(key)
        if key not in ("_class_name", "transformer_layers_per_block") and expected is not None:
            assert value == (list(expected) if isinstance(expected, tuple) else expected), key
    assert {name: one.shape for name, one in again.state_dict().items()} == {
        name: one.shape for name, one in tensors.items()
    }


_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_T5 = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_PARTS = [
    ("sdxl", "text_encoder", "CLIPTextModel", _CLIP_L),
    ("sdxl", "text_encoder_2", "CLIPTextModelWithProjection", _CLIP_G),
    ("sd3", "text_encoder", "CLIPTextModelWithProjection", _CLIP_L),
    ("sd3", "text_encoder_2", "CLIPTextModelWithProjection", _CLIP_G),
    ("flux1", "text_encoder_2", "T5EncoderModel", _T5),
    ("flux1", "vae", "AutoencoderKL", _VAE),
]


@pytest.mark.parametrize(
    ("family", "component", "cls", "config"), _PARTS, ids=[f"{one[0]}-{one[1]}" for one in _PARTS]
)
def test_other_parts_are_told_from_shapes(
    family: str, component: str, cls: str, config: dict[str, Any]
) -> None:
    layout = LAYOUTS[family]
    with torch.device("meta"):
        if cls == "AutoencoderKL":
            model = diffusers.AutoencoderKL(**config)
            known = dict(model.config)
        else:
            made = getattr(transformers, cls).config_class(**config)
            model = getattr(transformers, cls)(made)
            known = model.config.to_dict()
    tensors = {name: _Shape(one.shape, "F32") for name, one in model.state_dict().items()}
    packed = pack(layout, {component: tensors}, {component: known})
    assert (packed.extra, packed.missing) == ((), ())
    parts, _ = parts_in(layout, {**packed.tensors, **_denoiser_of(layout)})
    found = inferred_config(layout, parts).components[component]
    for key, value in config.items():
        assert found[key] == (list(value) if isinstance(value, tuple) else value), key


@cache
def _denoiser_of(layout: Layout) -> dict[str, LazyTensor]:
    """Return one of few layers: a file without a denoiser is no model."""
    cls, config = {
        "sdxl": ("UNet2DConditionModel", _UNETS["sdxl"]),
        "sd3": (
            "SD3Transformer2DModel",
            {"num_layers": 1, "out_channels": 16, "pos_embed_max_size": 4},
        ),
        "flux1": ("FluxTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}),
    }[layout.name]
    with torch.device("meta"):
        model = getattr(diffusers, cls)(**config)
    tensors = {name: _Shape(one.shape, "F32") for name, one in model.state_dict().items()}
    name = layout.denoiser.component
    return pack(layout, {name: tensors}, {name: dict(model.config)}).tensors
