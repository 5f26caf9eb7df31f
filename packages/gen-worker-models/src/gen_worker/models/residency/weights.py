"""What of an object takes memory: its modules, and the bytes of their parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen_worker.models.residency.values import Part

__all__ = ["device_bytes", "modules_of", "parts_of", "tensor_bytes", "weight_bytes"]


def modules_of(value: Any) -> dict[str, Any]:
    """Return the modules of a pipeline, of a mapping or sequence of modules, or of a module."""
    if _is_module(value):
        return {"": value}
    try:
        found = getattr(value, "components", value)
    except Exception:  # diffusers' property checks the pipeline as a whole
        found = value
    if isinstance(found, Mapping):
        return {str(name): part for name, part in found.items() if _is_module(part)}
    if isinstance(found, (list, tuple)):
        return {str(index): part for index, part in enumerate(found) if _is_module(part)}
    attributes = getattr(value, "__dict__", {})
    return {name: part for name, part in attributes.items() if _is_module(part)}


def parts_of(value: Any) -> tuple[Part, ...]:
    """Measure an object: one part for each distinct module, named by the module itself."""
    distinct = {id(module): module for module in modules_of(value).values()}
    return tuple(Part(key_of(module), weight_bytes(module)) for module in distinct.values())


def key_of(module: Any) -> str:
    """Return the part's key: the same for two pipelines exactly when they share the module."""
    return f"{id(module):x}"


def weight_bytes(value: Any) -> int:
    """Return the bytes of all distinct parameters and buffers of an object's modules."""
    return sum(map(tensor_bytes, _tensors(value)))


def device_bytes(value: Any, index: int) -> int:
    """Return how many of those bytes are on one GPU now."""
    return sum(
        tensor_bytes(tensor)
        for tensor in _tensors(value)
        if tensor.device.type == "cuda" and (tensor.device.index or 0) == index
    )


def tensor_bytes(tensor: Any) -> int:
    """Return what a tensor stores; a quantized one is measured by the tensors inside it."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        return sum(tensor_bytes(getattr(tensor, name)) for name in flatten()[0])
    return int(tensor.numel() * tensor.element_size())


def _tensors(value: Any) -> list[Any]:
    distinct: dict[int, Any] = {}
    for module in modules_of(value).values():
        for tensors in (module.parameters(), module.buffers()):
            distinct.update((id(tensor), tensor) for tensor in tensors)
    return list(distinct.values())


def _is_module(value: Any) -> bool:
    # Classes have these attributes too, and a pipeline's own `parameters` is no method.
    return (
        not isinstance(value, type)
        and callable(getattr(value, "parameters", None))
        and callable(getattr(value, "buffers", None))
    )
