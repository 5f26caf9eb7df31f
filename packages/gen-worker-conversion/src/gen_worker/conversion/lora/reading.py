"""Adapters read from the formats of diffusers, peft, kohya and ComfyUI."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora.adapter import Adapter, LowRank
from gen_worker.conversion.lora.kohya_names import dotted
from gen_worker.conversion.lora.originals import is_original, with_diffusers_names
from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["METADATA", "open_adapter"]

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
_SIDE = re.compile(
    r"(?P<module>.+)\.(?P<side>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up"
    r"|lora_linear_layer\.down|lora_linear_layer\.up)(?:\.default)?\.weight"
)
_OLD = re.compile(r"(?P<start>.+)\.processor\.(?P<layer>to_[qkv]|to_out)_lora\.(?P<side>down|up)\.")
_DOWN = ("lora_down", "lora_A", "lora.down", "lora_linear_layer.down")
_ALPHA = ".alpha"


class _Found:
    """What a file says of one module."""

    def __init__(self) -> None:
        self.sides: dict[str, tuple[str, LazyTensor]] = {}
        self.alpha: float | None = None
        self.alpha_name = ""


def open_adapter(path: str | os.PathLike[str], *, component: str = "") -> Adapter:
    """Open an adapter; only headers and the alphas are read.

    Args:
        path: A safetensors file, or the folder of an adapter of peft.
        component: Of a file of peft, which does not say whose it is: such as `unet`.

    Raises:
        ConversionInputError: There is nothing of an adapter in it, or half of one.
        DamagedFileError: A file is damaged.
        UnsafeFileFormat: The weights are in a format that can run code.
    """
    place = os.fspath(path)
    checkpoint = open_checkpoint(place)
    found, unknown = _modules(checkpoint)
    if not found:
        raise ConversionInputError(
            f"{place!r} is no LoRA: no tensor of it is named like one", file=place
        )
    alphas = _Alphas(_peft_config(place), _metadata(checkpoint.metadata))
    layers: dict[str, dict[str, LowRank]] = {}
    originals: dict[str, LowRank] = {}
    names: dict[str, str] = {}
    for key, one in found.items():
        home = _home(key, component)
        if home is None:
            unknown += [name for name, _ in one.sides.values()]
            unknown += [one.alpha_name] if one.alpha_name else []
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
        unknown += [name for module in lost for name, _ in found[names[module]].sides.values()]
    return Adapter(layers, tuple(sorted(unknown)))


def _modules(checkpoint: Checkpoint) -> tuple[dict[str, _Found], list[str]]:
    found: dict[str, _Found] = {}
    unknown: list[str] = []
    for name, tensor in checkpoint.items():
        key, side = _parsed(name)
        if side:
            found.setdefault(key, _Found()).sides[side] = (name, tensor)
        elif name.endswith(_ALPHA) and tensor.elements == 1:
            one = found.setdefault(name.removesuffix(_ALPHA), _Found())
            one.alpha, one.alpha_name = float(tensor.tensor()), name
        else:
            unknown.append(name)
    alone = [key for key, one in found.items() if not one.sides]
    unknown += [found.pop(key).alpha_name for key in alone]
    return found, unknown


def _parsed(name: str) -> tuple[str, str]:
    """Return the module as the file names it, and which side; empty when it is no side."""
    old = _OLD.match(name)
    if old is not None:
        layer = "to_out.0" if old["layer"] == "to_out" else old["layer"]
        return f"{old['start']}.{layer}", old["side"]
    match = _SIDE.fullmatch(name)
    if match is None:
        return name, ""
    return match["module"], "down" if match["side"] in _DOWN else "up"


def _home(key: str, component: str) -> tuple[str, str] | None:
    """Return component and module; None when the name is of no known kind."""
    start, _, module = key.partition(".")
    if start in _COMPONENTS and module:
        return start, _text(start, module)
    if start == "diffusion_model" and module:  # of ComfyUI
        return _denoiser(module)
    if key.startswith(_PEFT):
        module = key.removeprefix(_PEFT)
        return component, _text(component, module)
    for prefix, owner in _KOHYA.items():
        if key.startswith(prefix):
            name = dotted(key.removeprefix(prefix))
            if name is None:
                return None
            return _denoiser(name) if owner == "unet" else (owner, _text(owner, name))
    return None


def _denoiser(module: str) -> tuple[str, str]:
    return ("transformer" if module.startswith(_TRANSFORMER) else "unet"), module


def _text(component: str, module: str) -> str:
    """Return a CLIP's module with what transformers before 5.6 has before it."""
    is_bare = component.startswith("text_encoder") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if is_bare else module


def _low_rank(
    place: str, key: str, one: _Found, alphas: _Alphas, component: str, module: str
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
    return LowRank(down, up, alpha)


class _Alphas:
    """The alphas that are beside the tensors: in peft's configuration, or diffusers' metadata."""

    def __init__(self, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        self.config = config
        self.metadata = metadata

    def of(self, component: str, module: str, rank: int) -> float:
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


def _peft_config(place: str) -> Mapping[str, Any]:
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    path = os.path.join(folder, "adapter_config.json")
    config = read_config(path) if os.path.isfile(path) else None
    return config if isinstance(config, dict) else {}


def _metadata(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        found = json.loads(metadata.get(METADATA, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
