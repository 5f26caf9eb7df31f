"""What a configuration of transformers says a model is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["architecture_of", "quant_scheme_of", "subtype_of"]

_WRITES_TEXT = re.compile(r"For(?:ConditionalGeneration|CausalLM|ImageTextToText|Vision2Seq)$")
_SEEING = ("vision_config", "image_token_id", "image_token_index", "vision_tower")
_HEARING = re.compile(
    r"whisper|wav2vec|hubert|wavlm|speech|audio|musicgen|bark|encodec|seamless|clap|vits|mimi|dac",
    re.IGNORECASE,
)
_DECODER = re.compile(r"(?:ForCausalLM|LMHeadModel)$")


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the class that wrote a configuration; empty when it does not say."""
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and isinstance(classes[0], str):
        return classes[0]
    name = config.get("_class_name")
    return name if isinstance(name, str) else ""


def quant_scheme_of(config: Mapping[str, Any]) -> str:
    """Return how weights were quantized, such as `gptq-4bit`; empty when they were not."""
    record = config.get("quantization_config")
    if not isinstance(record, dict):
        return ""
    method = str(record.get("quant_method") or "")
    if method == "bitsandbytes" and record.get("load_in_4bit"):
        return f"bitsandbytes-{record.get('bnb_4bit_quant_type') or 'fp4'}"
    bits = record.get("bits") or record.get("weight_bits")
    return f"{method}-{bits}bit" if method and isinstance(bits, int) else method


def subtype_of(config: Mapping[str, Any]) -> str:
    """Return `vlm audio quantized encoder_decoder decoder` or `encoder`.

    A model is called `vlm` for seeing and writing text; a classifier of images or sounds has a
    processor, too, and is none.
    """
    architecture = architecture_of(config)
    writes = bool(_WRITES_TEXT.search(architecture))
    if writes and any(key in config for key in _SEEING):
        return "vlm"
    if "audio_config" in config or _HEARING.search(f"{config.get('model_type')} {architecture}"):
        return "audio"
    if quant_scheme_of(config):
        return "quantized"
    if config.get("is_encoder_decoder") is True:
        return "encoder_decoder"
    return "decoder" if _DECODER.search(architecture) or config.get("is_decoder") else "encoder"
