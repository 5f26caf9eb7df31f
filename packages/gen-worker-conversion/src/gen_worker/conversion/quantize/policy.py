"""Which weights of a checkpoint are quantized, and why the others are not. Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.quantize.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.quantize.methods import Method

__all__ = ["Choice", "Policy", "choose", "stack_of"]

_BLOCK = re.compile(r"(?:^|.*?\.)(?P<stack>[A-Za-z_]\w*)\.(?P<index>\d+)\.")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for beyond a recipe; patterns are those of file names."""

    recipe: Recipe = RECIPES["language"]
    include: tuple[str, ...] = ()
    """Tensors that are quantized although the recipe keeps them."""
    exclude: tuple[str, ...] = ()
    """Tensors that stay as they are, whatever else is said."""


class Choice(NamedTuple):
    """What is done with each tensor."""

    quantized: tuple[str, ...]
    kept: Mapping[str, str]
    """Reasons by name."""


def choose(
    checkpoint: Checkpoint,
    method: Method,
    policy: Policy,
    misfit: Callable[[str, LazyTensor], str],
) -> Choice:
    """Decide for every tensor.

    Args:
        checkpoint: What would be quantized.
        method: How.
        policy: What stays.
        misfit: Says why the method cannot take a tensor, from its name and shape; empty when it
            can.

    Raises:
        ConversionInputError: A pattern of `include` or `exclude` names nothing, or nothing is left
            to be quantized.
    """
    _check_patterns(checkpoint, policy)
    ends = _end_blocks(checkpoint, policy.recipe)
    kept: dict[str, str] = {}
    quantized: list[str] = []
    for name, tensor in checkpoint.items():
        why = _cannot(name, tensor, method) or _unwanted(name, tensor, policy, ends)
        why = why or misfit(name, tensor)
        if why:
            kept[name] = why
        else:
            quantized.append(name)
    if not quantized:
        reasons = ", ".join(sorted(set(kept.values()))) or "there are no tensors"
        raise ConversionInputError(
            f"{method.name!r} leaves every tensor as it is, from {next(iter(checkpoint), '')!r} on "
            f"({reasons}): choose another method, leave this component out, or include tensors by "
            "name",
            step="quantize",
        )
    return Choice(tuple(quantized), kept)


def _cannot(name: str, tensor: LazyTensor, method: Method) -> str:
    if tensor.dtype not in FLOATS:
        return f"of {tensor.dtype}"
    if name.rpartition(".")[2] != "weight" and "plain" not in method.layouts:
        return "no weight of a layer"
    if len(tensor.shape) not in method.dimensions:
        return f"of {len(tensor.shape)} dimensions"
    if tensor.elements == 0:
        return "empty"
    return ""


def _unwanted(name: str, tensor: LazyTensor, policy: Policy, ends: Mapping[str, str]) -> str:
    if _matches(name, policy.exclude):
        return "excluded"
    if _matches(name, policy.include):
        return ""
    for reason, patterns in policy.recipe.keep.items():
        if _matches(name, patterns):
            return reason
    if tensor.elements < policy.recipe.min_elements:
        return f"fewer than {policy.recipe.min_elements} elements"
    match = _BLOCK.match(name)
    return ends.get(match[0], "") if match else ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _end_blocks(names: Iterable[str], recipe: Recipe) -> dict[str, str]:
    """Return the reason by the beginning of the names, as `model.layers.0.`."""
    stacks: dict[str, set[int]] = {}
    for name in names:
        match = _BLOCK.match(name)
        if match:
            stacks.setdefault(match[0][: match.start("index")], set()).add(int(match["index"]))
    found = {}
    for stack, indexes in stacks.items():
        order = sorted(indexes)
        if recipe.end_blocks and len(order) >= recipe.min_blocks:
            for index in order[: recipe.end_blocks]:
                found[f"{stack}{index}."] = f"first of {len(order)} blocks"
            for index in order[-recipe.end_blocks :]:
                found[f"{stack}{index}."] = f"last of {len(order)} blocks"
    return found


def stack_of(checkpoint: Checkpoint) -> str:
    """Return how the names of the blocks begin that most of a model is in, as `model.layers.`.

    Empty where nothing is a stack of blocks.
    """
    sizes: dict[str, int] = {}
    for name, tensor in checkpoint.items():
        match = _BLOCK.match(name)
        if match:
            stack = match[0][: match.start("index")]
            sizes[stack] = sizes.get(stack, 0) + tensor.elements
    return max(sizes, key=lambda stack: (sizes[stack], stack), default="")


def _check_patterns(names: Sequence[str] | Checkpoint, policy: Policy) -> None:
    for field, patterns in (("include", policy.include), ("exclude", policy.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConversionInputError(
                    f"{field} pattern {pattern!r} names no tensor: they are called such as "
                    f"{next(iter(names), '')!r}",
                    step="quantize",
                )
