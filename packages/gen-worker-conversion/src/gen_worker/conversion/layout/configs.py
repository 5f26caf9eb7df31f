"""The configuration of a pipeline that is one file: from the user's folder, or from its tensors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.layout.shapes import (
    count_of,
    flux_config,
    sd3_config,
    unet_config,
    vae_config,
)
from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.layout.families import Layout, Part
    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["PipelineConfig", "config_at", "inferred_config", "read_json"]

_INDEX = "model_index.json"
_SD2_LAYERS = 23
"""What Stable Diffusion 2 uses of the 24 layers of its OpenCLIP."""
_PIPELINES = {
    ("sd15", 4): "StableDiffusionPipeline",
    ("sd15", 9): "StableDiffusionInpaintPipeline",
    ("sdxl", 4): "StableDiffusionXLPipeline",
    ("sdxl", 9): "StableDiffusionXLInpaintPipeline",
    ("sdxl-refiner", 4): "StableDiffusionXLImg2ImgPipeline",
    ("sd3", 16): "StableDiffusion3Pipeline",
    ("flux1", 64): "FluxPipeline",
    ("flux1", 384): "FluxFillPipeline",
}
"""By family and channels that the denoiser takes."""
_NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
_DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
_TOKENIZERS = {"clip": "CLIPTokenizer", "open_clip": "CLIPTokenizer", "t5": "T5TokenizerFast"}


class PipelineConfig(NamedTuple):
    """All that a folder of diffusers has beside weights, and what is not known of it."""

    model_index: dict[str, Any]
    """Content of `model_index.json`."""
    components: dict[str, dict[str, Any]]
    """Content of each `config.json`; of `scheduler`, that of `scheduler_config.json`."""
    needs: tuple[str, ...] = ()
    """Folders that the index names and nothing here can fill: tokenizers."""


def config_at(directory: str, parts: Mapping[Part, object]) -> PipelineConfig:
    """Read the configuration of a pipeline from the user's folder.

    Raises:
        ConversionInputError: It has none for one of the parts.
    """
    index = read_json(os.path.join(directory, _INDEX))
    components = {
        part.component: read_json(os.path.join(directory, part.component, "config.json"))
        for part in parts
    }
    return PipelineConfig(index, components)


def inferred_config(
    layout: Layout, parts: Mapping[Part, tuple[str, Mapping[str, LazyTensor]]]
) -> PipelineConfig:
    """Return what the shapes of the tensors and the family say.

    Raises:
        ConversionInputError: They do not say enough: give the folder of a pipeline's configuration.
    """
    if layout.denoiser not in parts:
        raise _not_enough("the file has no denoiser")
    components: dict[str, dict[str, Any]] = {}
    for part, (prefix, tensors) in parts.items():
        try:
            components[part.component] = _of(part, tensors, layout.name)
        except (KeyError, IndexError, ValueError) as error:
            raise _not_enough(f"{prefix}* is not a whole {part.component} ({error})") from error
    denoiser = components[layout.denoiser.component]
    channels = denoiser["in_channels"]
    pipeline = _PIPELINES.get((layout.name, channels))
    if pipeline is None:
        raise _not_enough(
            f"nothing in a {layout.name} file with {channels} channels says what it was made for, "
            "or what it predicts"
        )
    components["scheduler"] = _scheduler(layout, denoiser)
    return _with_index(pipeline, layout, parts, components)


def _of(part: Part, tensors: Mapping[str, LazyTensor], family: str) -> dict[str, Any]:
    match part.kind:
        case "unet":
            return unet_config(tensors, family)
        case "vae":
            return vae_config(tensors, family)
        case "sd3":
            return sd3_config(tensors)
        case "flux":
            return flux_config(tensors)
        case "clip":
            start, layers = "text_model.embeddings", "text_model.encoder.layers."
            words = tensors[f"{start}.token_embedding.weight"].shape
            places = tensors[f"{start}.position_embedding.weight"].shape[0]
            wide = tensors[f"{layers}0.mlp.fc1.weight"].shape[0]
            act = "gelu" if part.component == "text_encoder_2" else "quick_gelu"
            return _clip(part, words, places, wide, count_of(tensors, layers), act)
        case "open_clip":
            layers = "transformer.resblocks."
            words = tensors["token_embedding.weight"].shape
            places = tensors["positional_embedding"].shape[0]
            wide = tensors[f"{layers}0.mlp.c_fc.weight"].shape[0]
            count = count_of(tensors, layers)
            used = min(count, _SD2_LAYERS) if family == "sd2" else count
            return _clip(part, words, places, wide, used, "gelu")
        case "t5":
            return _t5(tensors)


def _clip(
    part: Part, words: tuple[int, ...], places: int, wide: int, layers: int, act: str
) -> dict[str, Any]:
    name = "CLIPTextModelWithProjection" if part.has_projection else "CLIPTextModel"
    return {
        "architectures": [name],
        "model_type": "clip_text_model",
        "vocab_size": words[0],
        "hidden_size": words[1],
        "projection_dim": words[1],
        "intermediate_size": wide,
        "max_position_embeddings": places,
        "num_hidden_layers": layers,
        "num_attention_heads": words[1] // 64,
        "hidden_act": act,
        "bos_token_id": 0,
        # Also of models whose end of text is another: transformers then takes the largest token.
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _t5(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    words, width = tensors["shared.weight"].shape
    first = "encoder.block.0.layer"
    buckets, heads = tensors[f"{first}.0.SelfAttention.relative_attention_bias.weight"].shape
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": width,
        "d_kv": tensors[f"{first}.0.SelfAttention.q.weight"].shape[0] // heads,
        "d_ff": tensors[f"{first}.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_layers": count_of(tensors, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
        "tie_word_embeddings": False,
    }


def _scheduler(layout: Layout, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    if layout.denoiser.kind == "unet":
        name = "PNDMScheduler" if layout.name == "sd15" else "EulerDiscreteScheduler"
        steps = {"skip_prk_steps": True, "set_alpha_to_one": False}
        return {"_class_name": name, **_NOISE, **(steps if layout.name == "sd15" else {})}
    flow: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", **_FLOW}
    if layout.name == "flux1":
        flow |= _DYNAMIC if denoiser["guidance_embeds"] else {"shift": 1.0}
    return flow


def _with_index(
    pipeline: str,
    layout: Layout,
    parts: Mapping[Part, object],
    components: dict[str, dict[str, Any]],
) -> PipelineConfig:
    scheduler = components["scheduler"]["_class_name"]
    index: dict[str, Any] = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler]}
    needs: list[str] = []
    for part in layout.every:
        config = components.get(part.component)
        if config is None:
            index[part.component] = [None, None]
        elif "_class_name" in config:
            index[part.component] = ["diffusers", config["_class_name"]]
        else:
            index[part.component] = ["transformers", config["architectures"][0]]
            tokenizer = part.component.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", _TOKENIZERS[part.kind]]
            needs.append(tokenizer)
    if layout.name == "sdxl-refiner":
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        index["requires_aesthetics_score"] = True
    if layout.name == "sdxl" and pipeline == "StableDiffusionXLPipeline":
        index["force_zeros_for_empty_prompt"] = True
    if layout.name == "sd15":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    return PipelineConfig(index, components, tuple(needs))


def read_json(path: str) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        ConversionInputError: There is none.
    """
    config = read_config(path) if os.path.isfile(path) else None
    if not isinstance(config, dict):
        raise ConversionInputError(
            f"{path!r} is no configuration: give the folder of a pipeline with model_index.json "
            "and a config.json for each component",
            file=path,
        )
    return config


def _not_enough(reason: str) -> ConversionInputError:
    return ConversionInputError(
        f"the configuration cannot be told from the tensors, {reason}: give the folder of a "
        "pipeline of the same model with its configurations, config_dir in Python and --configs on "
        "the command line",
        step="singlefile_to_diffusers",
    )
