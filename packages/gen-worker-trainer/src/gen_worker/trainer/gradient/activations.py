"""Activations that are computed again in the backward pass, for want of memory to keep them."""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["checkpoint_activations"]

_ENABLING = {
    "activation_checkpointing_enable": "activation_checkpointing_kwargs",
    "gradient_checkpointing_enable": "gradient_checkpointing_kwargs",
}
"""Methods of transformers, and what they take; the second is the older name."""


def checkpoint_activations(module: Any) -> None:
    """Have a module keep the inputs of its blocks only.

    Models of transformers and diffusers do so by themselves; in any other, lists of blocks of the
    same class are looked for.

    Raises:
        ValueError: There are no such blocks.
    """
    method = next((name for name in _ENABLING if callable(getattr(module, name, None))), "")
    if method:
        getattr(module, method)(**{_ENABLING[method]: {"use_reentrant": False}})
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # what it would keep is not there yet
        return
    if callable(getattr(module, "enable_gradient_checkpointing", None)):
        module.enable_gradient_checkpointing()
        return
    blocks = _repeated_blocks(module)
    if not blocks:
        raise ValueError(
            f"{type(module).__name__} has no list of blocks of one class, whose activations could "
            "be computed again: set activation_checkpointing to false, or give the model a method "
            "enable_gradient_checkpointing()"
        )
    from torch.utils.checkpoint import (  # type: ignore[import-not-found,unused-ignore]
        checkpoint,
    )

    for block in blocks:
        # In its place and not around it: the names of the parameters stay as they are.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _repeated_blocks(module: Any) -> list[Any]:
    """Return the blocks of the outermost lists in which a class with parameters is repeated."""
    found: list[Any] = []
    for child in module.children():
        inner = list(child.children())
        is_list = type(child).__name__ in ("ModuleList", "Sequential")
        kinds = [type(one) for one in inner if next(one.parameters(), None) is not None]
        if is_list and len(kinds) > 1 and len(set(kinds)) == 1:
            found += [one for one in inner if type(one) is kinds[0]]
        else:
            found += _repeated_blocks(child)
    return found
