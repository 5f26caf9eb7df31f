"""Weights with fewer bits: which packages they need, and how a library is told to make them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from gen_worker.models.loading.dtypes import QUANTIZED
from gen_worker.models.loading.errors import MissingPackageError, ModelLoadError
from gen_worker.models.loading.values import Quantization

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.models.choice import ModelChoice

__all__ = ["DENOISERS", "config_for", "packages_needed", "quantization_of", "require_packages"]

DENOISERS = ("transformer", "unet")
"""Components that quantized variants are about."""

# `quant_method` of a configuration on disk -> package that reads such weights.
_PACKAGES = {
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "modelopt": "modelopt",
    "gguf": "gguf",
    "auto-round": "auto_round",
}
_INSTALL = {
    "modelopt": "nvidia-modelopt",
    "compressed_tensors": "compressed-tensors",
    "auto_round": "auto-round",
}


def packages_needed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which packages read weights that a `config.json` says are quantized."""
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    package = _PACKAGES.get(method) if isinstance(method, str) else None
    return (package,) if package else ()


def quantization_of(
    choice: ModelChoice, variants: Mapping[str, str], configs: Sequence[Mapping[str, Any]]
) -> Mapping[str, Quantization]:
    """Return how components are quantized while they are loaded; empty when they are not.

    Asked for by the choice's attributes (`quant_library`, `quant_recipe`, …) or by files in the
    variant `fp8`, `int8` or `int4`. Weights whose configuration says that they are quantized
    already stay as they are.

    Args:
        choice: What is loaded.
        variants: Of each component with weights.
        configs: Of these components.

    Raises:
        ModelLoadError: The model has neither a `transformer` nor a `unet`.
    """
    wished = _wished(choice, variants)
    if wished is None or any(config.get("quantization_config") for config in configs):
        return {}
    found = [name for name in DENOISERS if name in variants]
    if not found:
        raise ModelLoadError(
            f"model {choice.ref!r} cannot be quantized to {wished.recipe!r}: it has neither a "
            "'transformer' nor a 'unet'",
            ref=choice.ref,
        )
    return dict.fromkeys(found, wished)


def _wished(choice: ModelChoice, variants: Mapping[str, str]) -> Quantization | None:
    library = _attribute(choice, "quant_library")
    recipe = _attribute(choice, "quant_recipe").removeprefix("bnb:")
    if library == "bitsandbytes" and recipe in ("nf4", "fp4", "int8"):
        return Quantization(
            library="bitsandbytes",
            recipe=recipe,
            compute_dtype=_attribute(choice, "quant_compute_dtype") or "bfloat16",
            double_quant=_attribute(choice, "quant_double_quant").lower() != "false",
        )
    of_files = next((variant for variant in variants.values() if variant in QUANTIZED), "")
    wanted = recipe if library == "torchao" else of_files
    if wanted in ("fp8", "int8", "int4"):
        return Quantization(library="torchao", recipe=wanted)
    return None


def _attribute(choice: ModelChoice, name: str) -> str:
    values = choice.attributes.get(name, ())
    return values[0].strip() if values else ""


def require_packages(names: Sequence[str], ref: str) -> None:
    """Check that optional packages are installed.

    Raises:
        MissingPackageError: Names the first that is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(
                f"model {ref!r} has quantized weights, which need {name!r}: install "
                f"{_INSTALL.get(name, name)!r}",
                package=name,
                ref=ref,
            )


def config_for(quantization: Quantization, *, is_diffusers: bool, ref: str) -> Any:
    """Return the library's own object that says how to quantize one component.

    Raises:
        MissingPackageError: torchao or bitsandbytes is not installed.
    """
    require_packages((quantization.library,), ref)
    if quantization.library == "torchao":
        return _torchao(quantization, is_diffusers=is_diffusers)
    return _bitsandbytes(quantization, is_diffusers=is_diffusers)


def _torchao(quantization: Quantization, *, is_diffusers: bool) -> Any:
    from torchao import quantization as ao  # type: ignore[import-not-found,unused-ignore]

    makers = {
        "fp8": "Float8WeightOnlyConfig",
        "int8": "Int8WeightOnlyConfig",
        "int4": "Int4WeightOnlyConfig",
    }
    config = getattr(ao, makers[quantization.recipe])()
    return _holder(is_diffusers).TorchAoConfig(config)


def _bitsandbytes(quantization: Quantization, *, is_diffusers: bool) -> Any:
    torch = importlib.import_module("torch")
    holder = _holder(is_diffusers)
    if quantization.recipe == "int8":
        return holder.BitsAndBytesConfig(load_in_8bit=True)
    return holder.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.recipe,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
        bnb_4bit_use_double_quant=quantization.double_quant,
    )


def _holder(is_diffusers: bool) -> Any:
    return importlib.import_module("diffusers" if is_diffusers else "transformers")
