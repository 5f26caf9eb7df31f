"""How quantized weights are called in files, and what a configuration tells loaders of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.quantize.schemes import TORCH_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.quantize.options import QuantizeOptions

__all__ = ["config_of", "header_metadata", "tensor_name"]

_E4M3 = {"num_bits": 8, "type": "float"}
_MX: dict[str, Any] = {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
_DYNAMIC = {"dynamic": True, "symmetric": True}
_STATIC = {"strategy": "tensor", "dynamic": False, "symmetric": True}
_BITSANDBYTES = {"scale": "SCB", "format": "weight_format"}
"""What is not called after the weight."""


def tensor_name(options: QuantizeOptions, weight: str, part: str) -> str:
    """Return what a part of a weight is called.

    Args:
        options: Complete.
        weight: Name of the tensor in the source, such as `proj.weight`.
        part: As its scheme calls it.
    """
    module, _, leaf = weight.rpartition(".")
    start = f"{module}." if module else ""
    layout = options.layout
    if layout == "plain" or (part == "weight" and layout != "torchao"):
        return weight
    if layout == "torchao":
        return f"{start}_{leaf}_{'qdata' if part == 'weight' else part}"
    if layout == "compressed-tensors":
        return f"{start}{part}" if part.startswith("input_") else f"{start}{leaf}_{part}"
    return f"{start}{_BITSANDBYTES[part]}" if part in _BITSANDBYTES else f"{weight}.{part}"


def config_of(
    method: str, options: QuantizeOptions, kept_modules: Sequence[str], compute_dtype: str
) -> dict[str, Any]:
    """Return `quantization_config` for a `config.json`; empty where loaders need none.

    Args:
        method: Its name.
        options: Complete.
        kept_modules: Names of layers that stay as they are.
        compute_dtype: torch's name of what weights are computed with.
    """
    if options.layout == "compressed-tensors":
        return _compressed(method, options, kept_modules)
    if options.layout == "torchao":
        return {
            "quant_method": "torchao",
            "quant_type": {"default": _torchao(method, options)},
            "modules_to_not_convert": list(kept_modules),
        }
    if options.layout == "bitsandbytes":
        return _bitsandbytes(method, options, kept_modules, compute_dtype)
    return {}


def header_metadata(
    method: str, options: QuantizeOptions, weights: Checkpoint, quantized: Collection[str]
) -> dict[str, str]:
    """Return what every file's header says; torchao's readers make their tensors of it.

    Args:
        method: Its name.
        options: Complete.
        weights: All tensors of the source, in the dtype that they are computed with.
        quantized: Names of those that are quantized.
    """
    if options.layout != "torchao":
        return {}
    found = {
        name: _torchao_tensor(method, options, tensor) if name in quantized else {"_type": "Tensor"}
        for name, tensor in weights.items()
    }
    start = _start_unknown_to_classes(weights)
    texts = {name.removeprefix(start): json.dumps(facts) for name, facts in found.items()}
    return {**texts, "tensor_names": json.dumps(list(texts))}


def _start_unknown_to_classes(weights: Checkpoint) -> str:
    """Return what transformers drops from all names of a CLIP when it reads them, 5.6 and later.

    It looks a weight up by the name that it has then.
    """
    starts = ("text_model.", "vision_model.")
    return next((one for one in starts if all(name.startswith(one) for name in weights)), "")


def _torchao_tensor(method: str, options: QuantizeOptions, tensor: LazyTensor) -> dict[str, Any]:
    rows, columns = tensor.shape
    facts: dict[str, Any] = {
        "block_size": [rows if options.granularity == "tensor" else 1, columns],
        "dtype": {"_type": "torch.dtype", "_data": TORCH_NAMES[tensor.dtype]},
        "act_quant_kwargs": None,
    }
    if method == "int8":
        facts["reduce_range"] = False
    else:
        facts["mm_config"] = None
        facts["kernel_preference"] = {"_type": "KernelPreference", "_data": "AUTO"}
    kind = "Int8Tensor" if method == "int8" else "Float8Tensor"
    return {"_type": kind, "_data": facts, "_tensor_data_names": ["qdata", "scale"]}


def _torchao(method: str, options: QuantizeOptions) -> dict[str, Any]:
    """Return torchao's own configuration, in version 2, as its `config_to_dict` writes it."""
    shared = (
        {"_type": "PerTensor", "_version": 1, "_data": {}}
        if options.granularity == "tensor"
        else {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
    )
    facts: dict[str, Any] = {"granularity": shared, "set_inductor_config": True}
    if method == "int8":
        facts["group_size"] = None
        return {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": facts}
    name = "float8_e5m2" if method == "fp8:e5m2" else "float8_e4m3fn"
    facts["weight_dtype"] = {"_type": "torch.dtype", "_data": name}
    return {"_type": "Float8WeightOnlyConfig", "_version": 2, "_data": facts}


def _bitsandbytes(
    method: str, options: QuantizeOptions, kept: Sequence[str], compute_dtype: str
) -> dict[str, Any]:
    eight = method == "int8"
    return {
        "quant_method": "bitsandbytes",
        "_load_in_4bit": not eight,
        "_load_in_8bit": eight,
        "load_in_4bit": not eight,
        "load_in_8bit": eight,
        "bnb_4bit_quant_type": "fp4" if eight else method,
        "bnb_4bit_use_double_quant": not eight and options.double_quant,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": list(kept),
        "llm_int8_has_fp16_weight": False,
        "llm_int8_enable_fp32_cpu_offload": False,
    }


def _compressed(method: str, options: QuantizeOptions, kept: Sequence[str]) -> dict[str, Any]:
    form, weights, dynamic = _compressed_scheme(method, options)
    bits = {key: weights[key] for key in ("num_bits", "type")}
    inputs = {"none": None, "dynamic": dynamic, "static": {**bits, **_STATIC}}
    group = {
        "targets": ["Linear"],
        "weights": {"symmetric": True, "dynamic": False, **weights},
        "input_activations": inputs[options.activations],
        "output_activations": None,
        "format": form,
    }
    # Before it loads, transformers makes room for zero points as they are unpacked
    # (compressed-tensors 0.20, on the meta device), except where weights are unpacked on loading.
    unpacked = {} if options.symmetric else {"dequantize": True}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": list(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        **unpacked,
    }


def _compressed_scheme(
    method: str, options: QuantizeOptions
) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Return the format, what it says of weights, and what of activations when they are dynamic.

    These are the presets `FP8_DYNAMIC`, `FP8_BLOCK`, `INT8`, `W8A16`, `W4A16`, `MXFP8A16`,
    `MXFP4A16` and `NVFP4A16` of compressed-tensors.
    """
    if method == "fp8:e4m3":
        per_token = {**_E4M3, "strategy": "token", **_DYNAMIC}
        if options.granularity == "block":
            blocks = {**_E4M3, "strategy": "block", "block_structure": [128, 128]}
            per_group = {**_E4M3, "strategy": "group", "group_size": 128, **_DYNAMIC}
            return "float-quantized", blocks, per_group
        strategy = "tensor" if options.granularity == "tensor" else "channel"
        return "float-quantized", {**_E4M3, "strategy": strategy}, per_token
    if method in ("int8", "int8:gptq"):
        rows = {"num_bits": 8, "type": "int", "strategy": "channel"}
        form = "pack-quantized" if options.activations == "none" else "int-quantized"
        return form, rows, {**rows, "strategy": "token", **_DYNAMIC}
    if method.startswith("int4:"):
        groups = {"num_bits": 4, "type": "int", "strategy": "group"}
        sized = {"group_size": options.group_size, "symmetric": options.symmetric}
        return "pack-quantized", {**groups, **sized}, None
    if method == "mxfp8":
        return "mxfp8-quantized", {**_E4M3, **_MX}, None
    four = {"num_bits": 4, "type": "float"}
    if method == "mxfp4":
        return "mxfp4-pack-quantized", {**four, **_MX}, None
    nv = {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    return "nvfp4-pack-quantized", {**four, **nv}, None
