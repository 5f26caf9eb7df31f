"""A model with its adapter as a model without one."""

from __future__ import annotations

import copy
import os
from typing import Any

__all__ = ["merged_copy", "save_merged"]


def merged_copy(model: Any) -> Any:
    """Return a copy of a model in RAM, whose layers have become what they are with the adapter.

    The model itself stays as it is, to the bit, and no second one is made on its device.

    Raises:
        ValueError: A merged weight would not be finite.
    """
    from peft.tuners.tuners_utils import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        BaseTunerLayer,
    )

    merged = _copy_in_ram(model)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, attribute = name.rpartition(".")
            setattr(merged.get_submodule(parent), attribute, layer.get_base_layer())
    for noted in ("peft_config", "_hf_peft_config_loaded"):
        if noted in vars(merged):
            delattr(merged, noted)
    return merged.requires_grad_(False).eval()


def save_merged(model: Any, directory: str | os.PathLike[str]) -> dict[str, str]:
    """Write a model with its adapter as one without; safetensors, in the layout of its library.

    Returns:
        What `save_checkpoint` tells of it.
    """
    merged = merged_copy(model)
    os.makedirs(directory, exist_ok=True)
    if callable(getattr(merged, "save_pretrained", None)):
        merged.save_pretrained(os.fspath(directory))
    else:
        from safetensors.torch import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            save_model,
        )

        save_model(merged, os.path.join(directory, "model.safetensors"))
    files = sorted(name for name in os.listdir(directory) if name.endswith(".safetensors"))
    return {"primary_path": files[0], "format": "merged"}


def _copy_in_ram(model: Any) -> Any:
    """Copy a model, its tensors straight into RAM."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    copies: dict[int, Any] = {}
    for parameter in model.parameters():
        held = parameter.detach().to("cpu", copy=True)
        copies[id(parameter)] = torch.nn.Parameter(held, requires_grad=False)
    for buffer in model.buffers():
        copies[id(buffer)] = buffer.detach().to("cpu", copy=True)
    return copy.deepcopy(model, copies)
