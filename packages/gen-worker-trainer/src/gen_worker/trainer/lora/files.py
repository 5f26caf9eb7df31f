"""An adapter as files that peft, transformers and diffusers load, and back into a model."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.lora.attaching import ADAPTER, BaseModel, put_in

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_lora", "save_lora"]

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before the names in its files."""
_MOST_NAMED = 10


def save_lora(
    model: Any, directory: str | os.PathLike[str], *, base: BaseModel | None = None
) -> dict[str, str]:
    """Write `adapter_model.safetensors` and `adapter_config.json`.

    Args:
        model: With an adapter.
        directory: Made where there is none.
        base: What the model is; what `attach_lora` was told by default.

    Returns:
        What `save_checkpoint` tells of it.

    Raises:
        ValueError: The model has no adapter.
    """
    from safetensors.torch import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        save_file,
    )

    config = copy.copy(_config_of(model))
    if base is not None:
        config.base_model_name_or_path, config.revision = base.ref or None, base.revision or None
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    os.makedirs(directory, exist_ok=True)
    tensors = {
        _PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in _tensors_of(model).items()
    }
    lineage = {
        "base_model": config.base_model_name_or_path,
        "base_model_revision": config.revision,
    }
    metadata = {name: text for name, text in lineage.items() if text}
    save_file(tensors, os.path.join(directory, _WEIGHTS), {"format": "pt", **metadata})
    config.save_pretrained(os.fspath(directory))
    return {"primary_path": _WEIGHTS, "format": "peft_lora", **metadata}


def load_lora(model: Any, directory: str | os.PathLike[str]) -> Any:
    """Put a saved adapter into a model, which may have one that fits already; return the model.

    Raises:
        UnsafeFileFormat: There is only a pickle.
        ValueError: The adapter is of another model; what does not fit is named.
    """
    from peft import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        LoraConfig,
        set_peft_model_state_dict,
    )

    from gen_worker.models.lora.adapters import adapter_file
    from gen_worker.models.reader import read_tensors

    path = adapter_file(directory)
    if not hasattr(model, "peft_config"):
        config = LoraConfig.from_pretrained(os.path.dirname(path))
        config.inference_mode = False
        put_in(model, config)
    kept = {name.removeprefix(_PREFIX): tensor for name, tensor in read_tensors(path).items()}
    problems = _misfits(kept, _tensors_of(model))
    if problems:
        more = len(problems) - _MOST_NAMED
        told = "; ".join(problems[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(f"the adapter in {os.fspath(directory)!r} is of another model: {told}")
    set_peft_model_state_dict(model, kept, ADAPTER)
    return model


def _misfits(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    problems = [f"{name!r} is missing" for name in wanted if name not in kept]
    problems += [f"{name!r} is not in the model" for name in kept if name not in wanted]
    problems += [
        f"{name!r} is {list(kept[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in wanted
        if name in kept and kept[name].shape != wanted[name].shape
    ]
    return problems


def _tensors_of(model: Any) -> dict[str, Any]:
    from peft import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        get_peft_model_state_dict,
    )

    # Whether the embeddings have changed, peft would ask the network about.
    tensors: dict[str, Any] = get_peft_model_state_dict(
        model, adapter_name=ADAPTER, save_embedding_layers=False
    )
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _config_of(model: Any) -> Any:
    config = getattr(model, "peft_config", {}).get(ADAPTER)
    if config is None:
        raise ValueError(
            f"this {type(model).__name__} has no adapter to save: put one in with attach_lora"
        )
    return config
