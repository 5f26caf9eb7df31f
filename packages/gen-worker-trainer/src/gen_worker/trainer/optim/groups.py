"""Which parameters decay: matrices do; norms, biases and single numbers per channel do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["groups_of", "trainable"]


def trainable(modules: Any) -> dict[str, Any]:
    """Return the parameters that require gradients, by name; each once.

    Args:
        modules: A module, modules by name, or parameters.

    Raises:
        TypeError: It is none of these.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, parameter in _named(modules):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter
    return found


def _named(modules: Any) -> Iterable[tuple[str, Any]]:
    if hasattr(modules, "named_parameters"):
        yield from modules.named_parameters()
    elif isinstance(modules, Mapping):
        for name, one in modules.items():
            inner = _named(one) if hasattr(one, "named_parameters") else [("", one)]
            yield from ((f"{name}.{rest}".rstrip("."), each) for rest, each in inner)
    elif isinstance(modules, Iterable):
        yield from ((str(index), one) for index, one in enumerate(modules))
    else:
        raise TypeError(
            f"an optimizer is made for a module, modules by name, or parameters, and not for "
            f"{type(modules).__name__}"
        )


def groups_of(modules: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups for an optimizer: those that decay, then those that do not.

    A parameter of at most one dimension does not decay: every bias, and every weight of a norm, is
    such a one.

    Args:
        modules: A module, modules by name, or parameters.
        weight_decay: Of the first group; with 0 there is one group.

    Raises:
        ValueError: Nothing in them requires gradients.
    """
    parameters = list(trainable(modules).values())
    if not parameters:
        raise ValueError(
            "no parameter requires gradients, so there is nothing to train: set requires_grad, "
            "or attach an adapter"
        )
    if not weight_decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
