"""Optimizers by name, with parameter groups, and with the fastest code that there is for them."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.optim.groups import groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OPTIMIZERS", "build_optimizer"]


class _Kind(NamedTuple):
    """Where an optimizer is, and what is asked of it here but for its own defaults."""

    module: str
    symbol: str
    install: str
    """The package that brings it."""
    defaults: Mapping[str, Any] = {}
    has_betas: bool = True


OPTIMIZERS: Mapping[str, _Kind] = {
    "adamw": _Kind("torch.optim", "AdamW", "torch"),
    "adamw8bit": _Kind("bitsandbytes.optim", "AdamW8bit", "bitsandbytes"),
    "adafactor": _Kind(
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"relative_step": False, "scale_parameter": False, "warmup_init": False},
        has_betas=False,
    ),
    "lion": _Kind("bitsandbytes.optim", "Lion", "bitsandbytes"),
    "lion8bit": _Kind("bitsandbytes.optim", "Lion8bit", "bitsandbytes"),
    "sgd": _Kind("torch.optim", "SGD", "torch", {"momentum": 0.9}, has_betas=False),
}
"""What is known by name; anything else is `module:Class`."""


def build_optimizer(
    name: str,
    params: Any,
    *,
    lr: float = 1e-4,
    weight_decay: float = 0.0,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    **options: Any,
) -> Any:
    """Make an optimizer for what requires gradients; norms and biases do not decay.

    Args:
        name: One of `OPTIMIZERS`, or `module:Class` with a signature like those of torch.
        params: A module, modules by name, or parameters.
        lr: Learning rate.
        weight_decay: Of matrices.
        betas: Of optimizers that have them; None leaves them as they are there.
        eps: As `betas`.
        options: What else the optimizer takes.

    Raises:
        ValueError: The name or an option is not known; those that are known are named.
        ImportError: The package that has it is not installed; the message names it.
    """
    kind = _kind_of(name)
    make = _imported(name, kind)
    known = [one for one in inspect.signature(make).parameters if one not in ("self", "params")]
    wanted: dict[str, Any] = {"lr": lr, **kind.defaults, **options}
    if betas is not None and kind.has_betas:
        wanted["betas"] = tuple(betas)
    if eps is not None and "eps" in known and kind.has_betas:
        wanted["eps"] = eps
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(
            f"the optimizer {name!r} has no {', '.join(map(repr, unknown))}: it takes "
            f"{', '.join(known)}"
        )
    groups = groups_of(params, weight_decay)
    if make.__module__.startswith("torch.optim") and "fused" in known and "fused" not in wanted:
        wanted["fused"] = _can_fuse(groups, wanted)
    return make(groups, **wanted)


def _kind_of(name: str) -> _Kind:
    known = OPTIMIZERS.get(name.strip().lower())
    if known is not None:
        return known
    module, colon, symbol = (part.strip() for part in name.partition(":"))
    if not (module and colon and symbol):
        raise ValueError(
            f"there is no optimizer {name!r}: use {', '.join(OPTIMIZERS)}, or module:Class"
        )
    return _Kind(module, symbol, module.partition(".")[0])


def _imported(name: str, kind: _Kind) -> Any:
    try:
        return getattr(importlib.import_module(kind.module), kind.symbol)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the optimizer {name!r} needs the package {kind.install!r}: install it"
        ) from error
    except AttributeError:
        raise ValueError(f"{kind.module!r} has no optimizer {kind.symbol!r}") from None


def _can_fuse(groups: list[dict[str, Any]], wanted: Mapping[str, Any]) -> bool | None:
    """Tell whether torch updates all parameters in one kernel; None leaves it to torch."""
    if wanted.get("foreach") or wanted.get("differentiable"):
        return None
    parameters = [one for group in groups for one in group["params"]]
    can = all(one.is_cuda and one.is_floating_point() for one in parameters)
    return True if can else None
