"""The configuration of a published model, told from the shapes of its tensors alone."""

from __future__ import annotations

from typing import Any

import diffusers  # type: ignore[import-not-found,import-untyped,unused-ignore]
import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.layout.configs import inferred_config
from gen_worker.conversion.layout.families import LAYOUTS
from gen_worker.conversion.layout.repack import pack, parts_in
from gen_worker.conversion.lazy import LazyTensor


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
