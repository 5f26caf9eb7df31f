"""Which precision the weights of a model get."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.models.choice import ModelChoice

__all__ = ["FLOAT_DTYPES", "VARIANTS", "dtype_named", "dtype_of_choice", "preferred_variants"]

FLOAT_DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per element."""

_NAMES = {
    **dict.fromkeys(("fp16", "float16", "half", "f16"), "float16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp32", "float32", "float", "f32"), "float32"),
}

VARIANTS = ("bf16", "fp8", "fp16", "int8", "int4")
"""As in `model.<variant>.safetensors`, in the order in which they are looked for."""

QUANTIZED = frozenset({"fp8", "int8", "int4", "nf4", "fp4"})


def dtype_named(name: str) -> str:
    """Return torch's name of a precision; empty when `name` is none."""
    return _NAMES.get(name.strip().lower().removeprefix("torch."), "")


def dtype_of_choice(choice: ModelChoice | None) -> str:
    """Return the precision a choice asks for: its own, else its flavor's, else its attributes'."""
    if choice is None:
        return ""
    wishes = (choice.dtype, choice.flavor, *choice.attributes.get("dtype", ()))
    return next(filter(None, map(dtype_named, wishes)), "")


def default_dtype(variant: str, device: str, *, has_bf16: bool = True) -> str:
    """Return the precision of a diffusers model for which nobody asked for one.

    A GPU gets bfloat16, or float16 where it has none. The CPU gets float32, unless the weights were
    published in half precision.
    """
    if device.startswith("cuda"):
        return "bfloat16" if has_bf16 else "float16"
    return dtype_named(variant) or "float32"


def preferred_variants(choice: ModelChoice | None) -> tuple[str, ...]:
    """Return which variant of the files to take, the wanted one first, the plain one next."""
    wished = dtype_of_choice(choice)
    first = {"float16": "fp16", "bfloat16": "bf16"}.get(wished, "")
    flavor = choice.flavor if choice and choice.flavor in VARIANTS else ""
    return tuple(dict.fromkeys((*filter(None, (flavor, first)), "", *VARIANTS)))
