"""LoRAs of language models as GGUF files, which llama.cpp applies to the model's own file."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from gen_worker.conversion.gguf.architectures import architecture_of
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.hyperparameters import number_of
from gen_worker.conversion.gguf.mixes import Fallback, fallback_of
from gen_worker.conversion.gguf.models import GgufPlan, general, read_model_config
from gen_worker.conversion.gguf.packing import packed
from gen_worker.conversion.gguf.tensor_names import laid_out, name_in_gguf, name_map, named_tensors
from gen_worker.conversion.gguf.types import file_type
from gen_worker.conversion.lazy import open_checkpoint, scale
from gen_worker.conversion.lazy.weight_sets import holds_weights
from gen_worker.conversion.lora.reading import open_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.architectures import Architecture
    from gen_worker.conversion.gguf.types import FileType
    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.lora.adapter import LowRank

__all__ = ["plan_lora"]

_TYPES = ("f32", "f16", "bf16", "q8_0")
_HEAD = "output.weight"


def plan_lora(
    directory: str | os.PathLike[str],
    to: str,
    *,
    base: str | os.PathLike[str] = "",
    name: str = "",
) -> GgufPlan:
    """Plan the GGUF file of a LoRA that peft saved.

    Args:
        directory: With `adapter_config.json` and `adapter_model.safetensors`.
        to: Type of the file: `f32`, `f16`, `bf16` or `q8_0`.
        base: Directory of the model that it is for, of which `config.json` is read, and the shapes
            of weights where there are any; by default what the adapter names, if that is a
            directory, or its own where that has a `config.json`.
        name: Of the adapter, for the metadata.

    Raises:
        GgufSourceError: There is no model that it is for, or it does not fit that; see its `code`.
        ConversionInputError: There is no such type, or it is no LoRA.
        DamagedFileError: A file is damaged.
    """
    wanted = file_type(to)
    place = os.fspath(directory)
    if wanted.token not in _TYPES:
        raise GgufSourceError(
            f"{place!r} is a LoRA, whose GGUF files are {', '.join(_TYPES)}: give one of these "
            f"instead of {to!r}",
            code="gguf_unsupported_adapter",
            file=place,
        )
    folder = _base_of(place, os.fspath(base))
    file = os.path.join(folder, "config.json")
    config = read_model_config(file)
    architecture = architecture_of(config, file)
    layers = _layers(place)
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    names = name_map(architecture, number_of(config, "num_hidden_layers", file))
    shapes = {}
    if folder != place and holds_weights(folder):
        known, _ = named_tensors(open_checkpoint(folder), config, architecture, file)
        shapes = {one: tensor.shape for one, tensor in known.items()}
    sides: dict[str, LazyTensor] = {}
    for module, layer in layers.items():
        new = name_in_gguf(names, f"{module}.weight", architecture)
        _check(new, layer, shapes, place)
        up = layer.up if layer.alpha == alpha else scale(layer.up, layer.alpha / alpha)
        sides[f"{new}.lora_a"] = layer.down
        sides[f"{new}.lora_b"] = laid_out(new, up, config, architecture, file)
    return _plan(sides, alpha, architecture, wanted, name)


def _plan(
    sides: Mapping[str, LazyTensor],
    alpha: float,
    architecture: Architecture,
    wanted: FileType,
    name: str,
) -> GgufPlan:
    """Return the file of both sides of every layer, all of them of one alpha."""
    types = {one: fallback_of(wanted.base, tensor.shape[-1]) for one, tensor in sides.items()}
    metadata = general(architecture.name, wanted, name) | {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    return GgufPlan(
        {one: packed(sides[one], types[one]) for one in sorted(sides)},
        metadata,
        architecture.name,
        wanted,
        types,
        tuple(
            Fallback(one, wanted.base, used, sides[one].shape[-1])
            for one, used in types.items()
            if used != wanted.base
        ),
        (),
    )


def _layers(place: str) -> Mapping[str, LowRank]:
    """Return what the adapter changes, by module of the model."""
    adapter = open_adapter(place)
    if adapter.unknown or set(adapter.layers) != {""}:
        other = adapter.unknown[0] if adapter.unknown else next(iter(adapter.layers))
        raise _unfit(other, place, "updates of a language model's linear layers alone can be in it")
    for module, layer in adapter.layers[""].items():
        if layer.magnitude is not None:
            raise _unfit(module, place, "llama.cpp does not know DoRA; merge it into the model")
    return adapter.layers[""]


def _check(name: str, layer: LowRank, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
    shape = (layer.up.shape[0], layer.down.shape[-1])
    if len(layer.down.shape) != 2 or shapes.get(name, shape) != shape:
        why = f"it changes {list(shape)!r}, and the weight is {list(shapes.get(name, ()))!r}"
        raise _unfit(name, place, f"{why}; give the model that it is for as base")
    if name == _HEAD and shapes and name not in shapes:
        raise _unfit(name, place, "the model's output is its embedding, which it would not change")


def _unfit(name: str, place: str, why: str) -> GgufSourceError:
    return GgufSourceError(
        f"{name!r} of the LoRA {place!r} cannot be in a GGUF file: {why}",
        code="gguf_unsupported_adapter",
        file=place,
        tensor=name,
    )


def _base_of(place: str, base: str) -> str:
    """Return the directory of the model that an adapter is for."""
    if base:
        return base
    if os.path.isfile(os.path.join(place, "config.json")):
        return place
    said = read_model_config(os.path.join(place, "adapter_config.json"))
    named = said.get("base_model_name_or_path")
    if isinstance(named, str) and os.path.isfile(os.path.join(named, "config.json")):
        return named
    raise GgufSourceError(
        f"{place!r} is a LoRA for {named!r}, which is no directory here: give the directory of "
        "that model as base (--base DIR); its config.json is enough",
        code="gguf_missing_base",
        file=place,
    )
