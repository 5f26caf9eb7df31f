"""Adapters written in the formats of diffusers, peft and kohya; alphas stay what they are."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import computed, reshape
from gen_worker.conversion.lora.families import family_of_modules
from gen_worker.conversion.lora.kohya_names import dotted, flat
from gen_worker.conversion.lora.originals import with_original_names
from gen_worker.conversion.lora.reading import CONFIG, METADATA, open_adapter
from gen_worker.conversion.side_files import write_json
from gen_worker.conversion.writer import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.lora.adapter import Adapter, LowRank

__all__ = [
    "AdapterFile",
    "AdapterFormat",
    "WrittenAdapter",
    "adapter_files",
    "convert_lora",
    "write_adapter",
]

AdapterFormat = Literal["diffusers", "kohya", "peft"]
_FILES = {"diffusers": "pytorch_lora_weights", "kohya": "lora", "peft": "adapter_model"}
_DENOISERS = ("unet", "transformer")
_TEXT = "text_model."


class WrittenAdapter(NamedTuple):
    """An adapter that was written."""

    paths: tuple[str, ...]
    """Of the files with weights; of peft one for each component."""
    unknown: tuple[str, ...]
    """Names in the source that are no part of an adapter of low rank; they are left out."""


def convert_lora(
    path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    to: AdapterFormat,
    component: str = "",
    family: str = "",
) -> WrittenAdapter:
    """Write an adapter in another format; blocks.

    Args:
        path: As `open_adapter` takes it.
        directory: Made when absent.
        to: The format.
        component: Whose a file of peft is, such as `unet`.
        family: `flux1` or `sd3`, for a file of kohya where the modules do not tell.

    Raises:
        ConversionInputError: It is no adapter, or the format cannot say what it holds.
    """
    adapter = open_adapter(path, component=component)
    return write_adapter(adapter, directory, to=to, family=family)


def write_adapter(
    adapter: Adapter,
    directory: str | os.PathLike[str],
    *,
    to: AdapterFormat,
    family: str = "",
) -> WrittenAdapter:
    """Write an adapter; blocks. Arguments and errors are those of `convert_lora`."""
    root = os.fspath(directory)
    paths: list[str] = []
    for file in adapter_files(adapter, to=to, family=family):
        place = os.path.join(root, file.folder)
        written = write_safetensors(file.tensors, place, prefix=file.prefix, metadata=file.metadata)
        paths.append(written.path)
        if file.config:
            write_json(os.path.join(place, CONFIG), file.config)
    return WrittenAdapter(tuple(paths), adapter.unknown)


class AdapterFile(NamedTuple):
    """One file of an adapter in some format, before it is written."""

    folder: str
    """Below that of the adapter: the component, where a format has a file for each."""
    prefix: str
    """Of the file's name."""
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    """Of its header."""
    config: Mapping[str, Any]
    """What `adapter_config.json` beside it says; empty without one."""


def adapter_files(adapter: Adapter, *, to: AdapterFormat, family: str = "") -> list[AdapterFile]:
    """Return the files of an adapter; nothing is read. Errors are those of `convert_lora`."""
    if to == "peft":
        has_parts = len(adapter.layers) > 1
        return [
            AdapterFile(
                name if has_parts else "",
                _FILES["peft"],
                _sides("base_model.model.", layers),
                {},
                {"peft_type": "LORA", "task_type": None, "bias": "none", **_config(layers)},
            )
            for name, layers in adapter.layers.items()
        ]
    if "" in adapter.layers:
        raise ConversionInputError(
            f"the format {to!r} names the component that an adapter changes, and the source does "
            "not: give component, such as 'unet'"
        )
    tensors, metadata = _diffusers(adapter) if to == "diffusers" else _kohya(adapter, family)
    return [AdapterFile("", _FILES[to], tensors, metadata, {})]


def _diffusers(adapter: Adapter) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, Any] = {}
    for component, layers in adapter.layers.items():
        tensors |= _sides(f"{component}.", layers)
        if any(one.alpha != one.rank or one.magnitude is not None for one in layers.values()):
            # Without it, diffusers takes the rank for alpha.
            config = _config({name.removeprefix(_TEXT): one for name, one in layers.items()})
            metadata |= {f"{component}.{key}": value for key, value in config.items()}
    return tensors, {METADATA: json.dumps(metadata, sort_keys=True)} if metadata else {}


def _sides(prefix: str, layers: Mapping[str, LowRank]) -> dict[str, LazyTensor]:
    made: dict[str, LazyTensor] = {}
    for module, layer in layers.items():
        made[f"{prefix}{module}.lora_A.weight"] = layer.down
        made[f"{prefix}{module}.lora_B.weight"] = layer.up
        if layer.magnitude is not None:
            sizes = (layer.up.row_count, *[1] * (len(layer.down.shape) - 2))
            shape = sizes if len(sizes) == 1 else (1, *sizes)  # of a convolution
            made[f"{prefix}{module}.lora_magnitude_vector"] = reshape(layer.magnitude, shape)
    return made


def _config(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """Return what peft's `LoraConfig` takes: the most frequent rank and alpha, and the others."""
    rank = _most_frequent(layer.rank for layer in layers.values())
    alpha = _most_frequent(layer.alpha for layer in layers.values())
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        "target_modules": sorted(layers),
        "rank_pattern": {name: one.rank for name, one in layers.items() if one.rank != rank},
        "alpha_pattern": {
            name: _number(one.alpha) for name, one in layers.items() if one.alpha != alpha
        },
        **({"use_dora": True} if any(one.magnitude is not None for one in layers.values()) else {}),
    }


def _most_frequent(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _kohya(adapter: Adapter, family: str) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    tensors: dict[str, LazyTensor] = {}
    every: list[LowRank] = []
    for component, layers in adapter.layers.items():
        prefix = _kohya_prefix(component, adapter)
        if component == "transformer":
            layers = with_original_names(layers, family or _family(layers))
        for module, layer in layers.items():
            name = flat(module)
            if dotted(name) != module:
                raise ConversionInputError(
                    f"the module {module!r} of {component!r} has no name in kohya's format that "
                    "could be read again: choose diffusers or peft"
                )
            tensors[f"{prefix}{name}.alpha"] = _scalar(layer.alpha)
            tensors[f"{prefix}{name}.lora_down.weight"] = layer.down
            tensors[f"{prefix}{name}.lora_up.weight"] = layer.up
            if layer.magnitude is not None:
                column = reshape(
                    layer.magnitude, (layer.up.row_count, *[1] * (len(layer.down.shape) - 1))
                )
                tensors[f"{prefix}{name}.dora_scale"] = column
            every.append(layer)
    rank = _most_frequent(layer.rank for layer in every)
    alpha = _most_frequent(layer.alpha for layer in every)
    return tensors, {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
    }


def _family(layers: Mapping[str, LowRank]) -> str:
    widths = ((name, layer.down.row_elements) for name, layer in layers.items())
    return family_of_modules(("transformer", name, width) for name, width in widths)


def _kohya_prefix(component: str, adapter: Adapter) -> str:
    if component in _DENOISERS:
        return "lora_unet_"
    if component == "text_encoder" and not {"text_encoder_2", "text_encoder_3"} & set(
        adapter.layers
    ):
        return "lora_te_"
    number = component.removeprefix("text_encoder").removeprefix("_") or "1"
    return f"lora_te{number}_"


def _scalar(value: float) -> LazyTensor:
    def rows(start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        return torch.tensor(value)

    return computed(rows, shape=(), dtype="F32", of=())
