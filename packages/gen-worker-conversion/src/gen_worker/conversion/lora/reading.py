"""Adapters read from the formats of diffusers, peft, kohya and ComfyUI."""

from __future__ import annotations

import json
import os
import re
import struct
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint, reshape
from gen_worker.conversion.lora.adapter import Adapter, LowRank
from gen_worker.conversion.lora.kohya_names import dotted
from gen_worker.conversion.lora.originals import is_original, with_diffusers_names
from gen_worker.models.formats.configs import read_config
from gen_worker.models.formats.plain_files import open_plain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = [
    "CONFIG",
    "METADATA",
    "Alphas",
    "home_of",
    "implied_component",
    "number_of",
    "open_adapter",
    "peft_config",
    "peft_parts",
    "side_of",
    "text_module",
]

CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the ranks and alphas of an adapter, in the header of its file."""
_PEFT = "base_model.model."
_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_KOHYA = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
_TRANSFORMER = (
    *("transformer_blocks.", "single_transformer_blocks.", "time_text_embed.", "norm_out."),
    *("context_embedder", "x_embedder", "pos_embed", "proj_out"),
)
_UNET = ("down_blocks.", "up_blocks.", "mid_block.", "time_embedding.", "add_embedding.", "conv_in")
_NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}
_SIDE = re.compile(
    r"(?P<module>.+)\.(?P<side>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up"
    r"|lora_linear_layer\.down|lora_linear_layer\.up)(?:\.default)?\.weight"
)
_OLD = re.compile(r"(?P<start>.+)\.processor\.(?P<layer>to_[qkv]|to_out)_lora\.(?P<side>down|up)\.")
_DOWN = ("lora_down", "lora_A", "lora.down", "lora_linear_layer.down")
_ALPHA = ".alpha"
_MAGNITUDE = re.compile(
    r"(?P<module>.+)\.(?:dora_scale|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)


class _Found:
    """What a file says of one module."""

    def __init__(self) -> None:
        self.sides: dict[str, tuple[str, LazyTensor]] = {}
        self.alpha: float | None = None
        self.alpha_name = ""
        self.magnitude: LazyTensor | None = None
        self.magnitude_name = ""

    @property
    def names(self) -> list[str]:
        sides = [name for name, _ in self.sides.values()]
        return [*sides, *filter(None, (self.alpha_name, self.magnitude_name))]


def open_adapter(path: str | os.PathLike[str], *, component: str = "") -> Adapter:
    """Open an adapter; only headers and the alphas are read.

    Args:
        path: A safetensors file, the folder of an adapter of peft, or a folder with one such folder
            for each component.
        component: Of a file of peft, which does not say whose it is: such as `unet`. Told by the
            names of its modules where it is not given.

    Raises:
        ConversionInputError: There is nothing of an adapter in it, or half of one.
        DamagedFileError: A file is damaged.
        UnsafeFileFormat: The weights are in a format that can run code.
    """
    place = os.fspath(path)
    parts = peft_parts(place)
    if parts:
        opened = [open_adapter(folder, component=name) for name, folder in parts.items()]
        every = {name: layers for one in opened for name, layers in one.layers.items()}
        return Adapter(every, tuple(sorted(name for one in opened for name in one.unknown)))
    checkpoint = open_checkpoint(place)
    found, unknown = _modules(checkpoint)
    if not found:
        raise ConversionInputError(
            f"{place!r} is no LoRA: no tensor of it is named like one", file=place
        )
    component = component or implied_component(found)
    alphas = Alphas(peft_config(place), checkpoint.metadata)
    layers: dict[str, dict[str, LowRank]] = {}
    originals: dict[str, LowRank] = {}
    names: dict[str, str] = {}
    for key, one in found.items():
        home = home_of(key, component)
        if home is None:
            unknown += one.names
            continue
        low_rank = _low_rank(place, key, one, alphas, *home)
        owner, module = home
        if owner in ("unet", "transformer") and is_original(module):
            originals[module] = low_rank
            names[module] = key
        else:
            layers.setdefault(owner, {})[module] = low_rank
    if originals:
        owner, made, lost = with_diffusers_names(originals)
        layers.setdefault(owner, {}).update(made)
        unknown += [name for module in lost for name in found[names[module]].names]
    return Adapter(layers, tuple(sorted(unknown)))


def peft_parts(place: str) -> dict[str, str]:
    """Return the folders with an adapter of peft in a folder that has none itself, by name."""
    others = (CONFIG, "model_index.json")
    if not os.path.isdir(place) or any(os.path.isfile(os.path.join(place, n)) for n in others):
        return {}
    return {
        entry.name: entry.path
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name)
        if entry.is_dir() and os.path.isfile(os.path.join(entry.path, CONFIG))
    }


def _modules(checkpoint: Checkpoint) -> tuple[dict[str, _Found], list[str]]:
    found: dict[str, _Found] = {}
    unknown: list[str] = []
    for name, tensor in checkpoint.items():
        key, side = side_of(name)
        magnitude = _MAGNITUDE.fullmatch(name)
        if side:
            found.setdefault(key, _Found()).sides[side] = (name, tensor)
        elif magnitude:
            one = found.setdefault(magnitude["module"], _Found())
            one.magnitude, one.magnitude_name = tensor, name
        elif name.endswith(_ALPHA) and tensor.elements == 1 and number_of(tensor) is not None:
            one = found.setdefault(name.removesuffix(_ALPHA), _Found())
            one.alpha, one.alpha_name = number_of(tensor), name
        else:
            unknown.append(name)
    alone = [key for key, one in found.items() if not one.sides]
    for key in alone:
        unknown += found.pop(key).names
    return found, unknown


def number_of(tensor: LazyTensor) -> float | None:
    """Return the one number in a tensor of a file, without torch; None for other dtypes."""
    code = "<f" if tensor.dtype == "BF16" else _NUMBERS.get(tensor.dtype)
    if code is None:
        return None
    [extent] = tensor.sources
    with open_plain(extent.path) as (descriptor, _):
        content = read_exactly(descriptor, extent.end - extent.start, extent.start)
    if tensor.dtype == "BF16":  # the upper half of a float32
        content = bytes(2) + content
    return float(struct.unpack(code, content)[0])


def implied_component(keys: Iterable[str]) -> str:
    """Return the component that all modules of a file of peft belong to; empty when none is told.

    Args:
        keys: Modules as the file names them.
    """
    modules = [key.removeprefix(_PEFT) for key in keys]
    for component, starts in (("unet", _UNET), ("transformer", _TRANSFORMER)):
        if modules and all(module.startswith(starts) for module in modules):
            return component
    is_text = modules and all(module.startswith("text_model.") for module in modules)
    return "text_encoder" if is_text else ""


def side_of(name: str) -> tuple[str, str]:
    """Return the module as the file names it, and which side; empty when it is no side."""
    old = _OLD.match(name)
    if old is not None:
        layer = "to_out.0" if old["layer"] == "to_out" else old["layer"]
        return f"{old['start']}.{layer}", old["side"]
    match = _SIDE.fullmatch(name)
    if match is None:
        return name, ""
    return match["module"], "down" if match["side"] in _DOWN else "up"


def home_of(key: str, component: str) -> tuple[str, str] | None:
    """Return component and module; None when the name is of no known kind."""
    start, _, module = key.partition(".")
    if start in _COMPONENTS and module:
        return start, text_module(start, module)
    if start == "diffusion_model" and module:  # of ComfyUI
        return _denoiser(module)
    if key.startswith(_PEFT):
        module = key.removeprefix(_PEFT)
        return component, text_module(component, module)
    for prefix, owner in _KOHYA.items():
        if key.startswith(prefix):
            name = dotted(key.removeprefix(prefix))
            if name is None:
                return None
            return _denoiser(name) if owner == "unet" else (owner, text_module(owner, name))
    return None


def _denoiser(module: str) -> tuple[str, str]:
    return ("transformer" if module.startswith(_TRANSFORMER) else "unet"), module


def text_module(component: str, module: str) -> str:
    """Return a CLIP's module with what transformers before 5.6 has before it."""
    is_bare = component.startswith("text_encoder") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if is_bare else module


def _low_rank(
    place: str, key: str, one: _Found, alphas: Alphas, component: str, module: str
) -> LowRank:
    if len(one.sides) != 2:
        raise ConversionInputError(
            f"{place!r} has half of the update of {key!r}: "
            f"{next(iter(one.sides.values()))[0]!r} without its other side",
            file=place,
            tensor=key,
        )
    down, up = one.sides["down"][1], one.sides["up"][1]
    rank = down.shape[0] if down.shape else 0
    if len(down.shape) < 2 or len(up.shape) < 2 or up.shape[1] != rank:
        raise ConversionInputError(
            f"{down!r} and {up!r} of {key!r} are of different ranks: the file is damaged",
            file=place,
            tensor=key,
        )
    alpha = one.alpha if one.alpha is not None else alphas.of(component, module, rank)
    return LowRank(down, up, alpha, _magnitude(place, key, one, up.row_count))


def _magnitude(place: str, key: str, one: _Found, rows: int) -> LazyTensor | None:
    """Return the lengths of the rows, in one dimension; None for a LoRA without."""
    if one.magnitude is None or one.magnitude.shape == (rows,):
        return one.magnitude
    if one.magnitude.elements != rows or rows not in one.magnitude.shape[:2]:
        raise ConversionInputError(
            f"{one.magnitude_name!r} of {place!r} has the shape {list(one.magnitude.shape)}: the "
            f"magnitudes of a DoRA are one for each of the {rows} outputs",
            file=place,
            tensor=key,
        )
    return reshape(one.magnitude, (rows,))


class Alphas:
    """The alphas that are beside the tensors: in peft's configuration, or diffusers' metadata."""

    def __init__(self, config: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Take them.

        Args:
            config: Of peft; see `peft_config`.
            metadata: Of the header of the file.
        """
        self.config = config
        self.metadata = _metadata(metadata)

    def of(self, component: str, module: str, rank: int) -> float:
        """Return the alpha of one module; its rank where nothing is said."""
        start = f"{component}."
        config = self.config or {
            key.removeprefix(start): value
            for key, value in self.metadata.items()
            if key.startswith(start)
        }
        if "lora_alpha" not in config:
            return float(rank)
        alpha = float(config["lora_alpha"])
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):  # as peft reads it
                alpha = float(value)
                break
        # peft's rank-stabilised variant divides by the root of the rank.
        return alpha * rank**0.5 if config.get("use_rslora") else alpha


def peft_config(place: str) -> Mapping[str, Any]:
    """Return the `adapter_config.json` of a folder, or beside a file; empty without one."""
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    path = os.path.join(folder, CONFIG)
    config = read_config(path) if os.path.isfile(path) else None
    return config if isinstance(config, dict) else {}


def _metadata(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        found = json.loads(metadata.get(METADATA, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
