"""Which weights stay in high precision, as data: by kind of model, with the reason of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

__all__ = ["RECIPES", "Recipe", "recipe_for"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of model does not bear to lose; patterns are those of file names."""

    name: str
    keep: Mapping[str, tuple[str, ...]]
    """Patterns of tensor names by the reason why these stay."""
    end_blocks: int = 1
    """How many blocks stay at either end of a stack."""
    min_blocks: int = 8
    """Of a stack whose ends stay: of a shorter one little else would be quantized."""
    min_elements: int = 512
    """A smaller tensor's scales outweigh what is saved."""


_EMBEDDINGS = ("*embed_tokens*", "*embeddings*", "*.wte.*", "*.wpe.*", "wte.*", "wpe.*", "shared.*")
_HEADS = ("lm_head.*", "*.lm_head.*", "*.output_projection.*", "score.*", "classifier.*")
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                name="language",
                keep={
                    "embedding": (*_EMBEDDINGS, "embed*", "*.embed.*"),
                    "output head": _HEADS,
                    "router of experts": ("*.gate.weight", "*.router.*"),
                    "position bias": ("*relative_attention_bias*",),
                    # transformers keeps these of T5 in float32 and would not look for scales
                    "kept by the model's class": ("*.DenseReluDense.wo.weight",),
                    "vision tower": ("*vision_tower*", "*visual.*", "*multi_modal_projector*"),
                },
            ),
            Recipe(
                name="text-encoder",
                keep={
                    "embedding": (*_EMBEDDINGS, "*embedding*"),
                    "output projection": ("text_projection.*", "*pooler*", *_HEADS),
                    "position bias": ("*relative_attention_bias*",),
                    "kept by the model's class": ("*.DenseReluDense.wo.weight",),
                },
            ),
            Recipe(
                name="diffusion-transformer",
                keep={
                    "entry": (
                        *("proj_in.*", "x_embedder.*", "pos_embed*", "patch_embed*", "img_in.*"),
                        *("context_embedder.*", "txt_in.*", "caption_projection.*", "*_refiner.*"),
                        *("cap_embedder.*", "text_embedding*", "image_embed*"),
                    ),
                    "time and label embedder": (
                        *("time_text_embed.*", "time_embed*", "timestep_embed*", "t_embedder.*"),
                        *("time_in.*", "vector_in.*", "guidance_in.*", "guidance_embed*"),
                        *("condition_embedder.*", "adaln_single.*", "y_embedder.*", "label_emb*"),
                        *("time_guidance_embed.*", "time_proj*"),
                    ),
                    "exit": ("proj_out.*", "norm_out.*", "final_layer.*", "head.*"),
                    "learned token": ("*register_tokens*", "*scale_shift_table*"),
                },
            ),
            Recipe(
                name="unet",
                keep={
                    "entry": ("conv_in.*", "input_blocks.0.*"),
                    "time and label embedder": (
                        *("time_embedding.*", "add_embedding.*", "class_embedding.*"),
                        *("time_embed.*", "label_emb.*", "*.time_emb_proj.*", "*.emb_layers.*"),
                    ),
                    "exit": ("conv_out.*", "out.*"),
                },
                end_blocks=0,
            ),
        )
    }
)

_COMPONENTS = {
    "transformer": "diffusion-transformer",
    "transformer_2": "diffusion-transformer",
    "prior": "diffusion-transformer",
    "unet": "unet",
    "controlnet": "unet",
    "text_encoder": "text-encoder",
    "text_encoder_2": "text-encoder",
    "text_encoder_3": "text-encoder",
    "image_encoder": "text-encoder",
}


def recipe_for(component: str = "") -> Recipe:
    """Return the recipe of a pipeline's component; a model of its own is a language model."""
    return RECIPES[_COMPONENTS.get(component, "language")]
