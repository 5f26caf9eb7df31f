"""The file of an adapter: which one it is, and its tensors as diffusers wants them."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.models.formats import check_weight_formats
from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Adapter", "adapter_file", "read_adapter", "with_alphas"]

_PREFERRED = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_DOWN = ".lora_down.weight"
_PEFT = "base_model.model."


class Adapter(NamedTuple):
    """An adapter that was read."""

    name: str
    tensors: Mapping[str, Any]
    weight: float
    ref: str = ""
    """For messages."""


def adapter_file(path: str | os.PathLike[str], ref: str = "") -> str:
    """Return the weights file of an adapter's directory, or the file itself.

    `adapter_model.safetensors` comes before `pytorch_lora_weights.safetensors`, and any other
    after both, the first by its path.

    Raises:
        ValidationError: There is none; `UnsafeFileFormat` when there are only pickles.
    """
    place = os.fspath(path)
    if os.path.isfile(place):
        return place
    names = check_weight_formats(place, ref).safe
    found = [name for name in names if name.endswith(".safetensors")]
    for wanted in _PREFERRED:
        if wanted in found:
            return os.path.join(place, wanted)
    if not found:
        raise ValidationError(f"LoRA {ref or place!r} has no safetensors file: publish it with one")
    return os.path.join(place, found[0])


def read_adapter(
    file: str | os.PathLike[str], *, name: str, weight: float = 1.0, ref: str = ""
) -> Adapter:
    """Read and check an adapter; only safetensors are read.

    Raises:
        UnsafeFileFormat: The file is a pickle.
        DamagedFileError: It does not fit its header.
        ValidationError: The weight is not a finite number.
    """
    from gen_worker.models.formats import assert_loadable
    from gen_worker.models.reader import read_tensors

    path = os.fspath(file)
    assert_loadable(path, ref)
    if (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not math.isfinite(weight)
    ):
        raise ValidationError(f"LoRA {ref or name!r} has the weight {weight!r}: give a number")
    tensors = with_alphas(read_tensors(path))
    scale = _peft_scale(path)
    if scale != 1.0:
        tensors = {
            key: tensor * scale if ".lora_B." in key else tensor for key, tensor in tensors.items()
        }
    return Adapter(name, tensors, float(weight), ref)


def with_alphas(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Add the alpha of each `lora_down` that has none: its rank, so that nothing is scaled."""
    found = dict(tensors)
    for key, tensor in tensors.items():
        alpha = key.removesuffix(_DOWN) + ".alpha"
        if key.endswith(_DOWN) and alpha not in tensors:
            found[alpha] = tensor.new_tensor(float(tensor.shape[0]))
    return found


def _peft_scale(path: str) -> float:
    """Return by what peft would scale an adapter of its own; its file does not say so."""
    config = os.path.join(os.path.dirname(path), "adapter_config.json")
    if os.path.basename(path) != _PREFERRED[0] or not os.path.isfile(config):
        return 1.0
    values = read_config(config)
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or rank <= 0 or not isinstance(alpha, (int, float)):
        return 1.0
    return float(alpha / math.sqrt(rank) if values.get("use_rslora") else alpha / rank)


def without_peft_prefix(tensors: Mapping[str, Any], component: str) -> dict[str, Any]:
    """Name the component in the keys of an adapter that peft saved of this one component."""
    if not all(key.startswith(_PEFT) for key in tensors):
        return dict(tensors)
    return {f"{component}.{key.removeprefix(_PEFT)}": value for key, value in tensors.items()}
