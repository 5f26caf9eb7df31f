"""Casts between the plain floating-point precisions, of a checkpoint and of a file."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import cast
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.vocabulary import normalize_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["CAST_DTYPES", "EIGHT_BIT_FLOATS", "cast_checkpoint", "cast_code", "quantized_modules"]

CAST_DTYPES = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16"}
"""Safetensors codes by token."""
_PACKED = frozenset(
    {"I8", "U8", "I32", "F4", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"}
)
"""Of quantised weights; of plain ones only counters and masks have these."""
EIGHT_BIT_FLOATS = frozenset({"F8_E4M3", "F8_E5M2"})
"""Quantised with scales beside them; plain numbers without."""
_COMPANIONS = (
    *("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale"),
    *("input_scale", "input_global_scale", "output_scale", "k_scale", "v_scale", "scale_weight"),
    *("scale_input", "scales", "scale", "zero_point", "weight_zero_point", "g_idx", "SCB"),
    *("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map"),
)
"""Last parts of the names of what belongs to quantised weights."""


def cast_code(token: str) -> str:
    """Return the safetensors code of a precision that a cast leads to.

    Raises:
        ConversionInputError: A cast does not lead there.
    """
    code = CAST_DTYPES.get(normalize_dtype(token))
    if code is None:
        raise ConversionInputError(
            f"{token!r} is not reached by a cast: give bf16, fp16 or fp32; fewer bits need scales "
            "and are methods of quantization"
        )
    return code


def cast_checkpoint(
    checkpoint: Checkpoint, dtype: str, *, skip: Sequence[str] = (), keep_fp32: Sequence[str] = ()
) -> dict[str, LazyTensor]:
    """Cast every plain floating-point tensor; quantised ones and their scales stay as they are.

    Floats of eight bits without scales, as storage, are plain.

    Args:
        checkpoint: What to cast.
        dtype: Token such as `bf16`.
        skip: Patterns, as of file names, of tensors that stay in their own precision.
        keep_fp32: Patterns of tensors that become float32, such as `*norm*`.

    Raises:
        ConversionInputError: A cast does not lead to `dtype`.
    """
    code = cast_code(dtype)
    packed = quantized_modules(checkpoint)

    def one(name: str, tensor: LazyTensor) -> LazyTensor:
        if tensor.dtype in EIGHT_BIT_FLOATS:
            is_plain = name.rpartition(".")[0] not in packed
        else:
            is_plain = tensor.dtype in FLOATS and not _is_companion(name, packed)
        if not is_plain or _matches(name, skip):
            return tensor
        return cast(tensor, "F32" if _matches(name, keep_fp32) else code)

    return {name: one(name, tensor) for name, tensor in checkpoint.items()}


def quantized_modules(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the names of modules that have quantised weights."""
    return frozenset(
        name.rpartition(".")[0]
        for name, tensor in checkpoint.items()
        if _is_packed(name, tensor.dtype, checkpoint)
    )


def _is_packed(name: str, dtype: str, checkpoint: Checkpoint) -> bool:
    module, dot, last = name.rpartition(".")
    if dtype not in EIGHT_BIT_FLOATS:
        return dtype in _PACKED and "weight" in last
    beside = (f"{module}{dot}{part}" for part in _COMPANIONS)
    return any(one in checkpoint for one in (*beside, f"{name}_scale", f"{name}_scale_inv"))


def _is_companion(name: str, modules: frozenset[str]) -> bool:
    for part in _COMPANIONS:
        module = name.removesuffix(part)
        if module != name and module.removesuffix(".") in modules:
            return True
    return False


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
