"""The tensors of a module by name, each once; and whether others fit in their place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ModuleParts", "gradients_of", "misfits", "parameter_names", "parts_of", "unwrapped"]


class ModuleParts(NamedTuple):
    """What a module's `state_dict` has."""

    tensors: dict[str, Any]
    aliases: dict[str, str]
    """Further names of tensors, such as of tied weights."""
    objects: dict[str, Any]
    """What is no tensor."""


def unwrapped(module: Any) -> Any:
    """Return the module that `DistributedDataParallel` has within: its names are the author's."""
    parallel = getattr(sys.modules.get("torch"), "nn", None)
    kind = getattr(getattr(parallel, "parallel", None), "DistributedDataParallel", None)
    return module.module if kind is not None and isinstance(module, kind) else module


def parts_of(module: Any, *, trainable_only: bool) -> ModuleParts:
    """Take a module apart; nothing is copied.

    Args:
        module: Of torch.
        trainable_only: Leave out parameters that need no gradients.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    parts = ModuleParts({}, {}, {})
    first: dict[Any, str] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            parts.objects[name] = value
        elif not trainable_only or value.requires_grad or not _is_parameter(torch, value):
            known = first.setdefault(_identity(value), name)
            if known == name:
                parts.tensors[name] = value.detach()
            else:
                parts.aliases[name] = known
    return parts


def _is_parameter(torch: Any, value: Any) -> bool:
    return isinstance(value, torch.nn.Parameter)


def _identity(tensor: Any) -> Any:
    """Return what two names of the same numbers share."""
    address = tensor.data_ptr()
    if not address:
        return id(tensor)
    return (str(tensor.device), address, tensor.dtype, tensor.shape, tensor.stride())


def misfits(kept: ModuleParts, wanted: ModuleParts) -> list[str]:
    """Return what keeps the tensors of one module out of another, in words."""
    mine, theirs = _all_names(kept), _all_names(wanted)
    problems = [f"{name!r} is missing" for name in theirs if name not in mine]
    problems += [f"{name!r} is not in the model" for name in mine if name not in theirs]
    for name in theirs:
        if name not in mine or theirs[name] is None or mine[name] is None:
            continue
        found, expected = _kind(mine[name]), _kind(theirs[name])
        if found != expected:
            problems.append(f"{name!r} is {found}, the model has {expected}")
    return problems


def _all_names(parts: ModuleParts) -> dict[str, Any]:
    names: dict[str, Any] = dict.fromkeys(parts.objects)
    names |= parts.tensors
    return names | {name: parts.tensors[known] for name, known in parts.aliases.items()}


def _kind(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def parameter_names(models: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of all parameters, by their ids."""
    return {
        id(parameter): f"{model}:{name}"
        for model, module in models.items()
        for name, parameter in module.named_parameters()
    }


def gradients_of(module: Any) -> dict[str, Any]:
    """Return the gradients that there are, by the parameters' names."""
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
