"""Which scheme does the work of a method, given its options. A table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.conversion.quantize.four_bits import FourBits
from gen_worker.conversion.quantize.gptq import Gptq
from gen_worker.conversion.quantize.microscaled import Microscaled, NvFp4
from gen_worker.conversion.quantize.packed import PackedIntegers
from gen_worker.conversion.quantize.row_maxima import RowMaxima
from gen_worker.conversion.quantize.scaled import BLOCK, E4M3, E5M2, INT8, Scaled, Stored
from gen_worker.conversion.quantize.static_inputs import StaticInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.conversion.quantize.options import QuantizeOptions
    from gen_worker.conversion.quantize.parts import Scheme

__all__ = ["TORCH_NAMES", "scheme_for"]

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of what weights are computed with, by safetensors code."""


def _e4m3(options: QuantizeOptions, _: str) -> Scheme:
    if options.activations == "static":
        return StaticInputs(E4M3, options.granularity)
    grouped = options.granularity == "block" and options.activations == "dynamic"
    return Scaled(E4M3, options.granularity, divisor=BLOCK if grouped else 1)


def _int8(options: QuantizeOptions, dtype: str) -> Scheme:
    if options.layout == "bitsandbytes":
        return RowMaxima()
    if options.activations == "static":
        return StaticInputs(INT8, "row")
    if options.layout == "torchao" or options.activations == "dynamic":
        return Scaled(INT8, "row")
    # As bytes on their own, compressed-tensors' readers expect quantized activations, too.
    return PackedIntegers(8, 0, dtype, symmetric=True)


def _four_bits(kind: str) -> Callable[[QuantizeOptions, str], Scheme]:
    return lambda options, dtype: FourBits(
        kind, options.group_size, TORCH_NAMES[dtype], double=options.double_quant
    )


def _gptq(bits: int) -> Callable[[QuantizeOptions, str], Scheme]:
    return lambda options, dtype: Gptq(
        bits,
        options.group_size,
        dtype,
        symmetric=options.symmetric,
        damping=options.damping,
        by_activation=options.by_activation,
    )


_SCHEMES: Mapping[str, Callable[[QuantizeOptions, str], Scheme]] = {
    "fp8:e4m3": _e4m3,
    "fp8:e5m2": lambda options, _: Scaled(E5M2, options.granularity),
    "fp8:e4m3:storage": lambda _options, _: Stored(E4M3),
    "fp8:e5m2:storage": lambda _options, _: Stored(E5M2),
    "int8": _int8,
    "int4:wo": lambda options, dtype: PackedIntegers(
        4, options.group_size, dtype, symmetric=options.symmetric
    ),
    **{f"int4:gptq{suffix}": _gptq(4) for suffix in ("", ":g64", ":g32")},
    "int8:gptq": _gptq(8),
    "nf4": _four_bits("nf4"),
    "fp4": _four_bits("fp4"),
    "mxfp8": lambda _options, _: Microscaled(8),
    "mxfp4": lambda _options, _: Microscaled(4),
    "nvfp4": lambda _options, _: NvFp4(),
}


def scheme_for(method: str, options: QuantizeOptions, dtype: str) -> Scheme:
    """Return what quantizes one weight.

    Args:
        method: Its name.
        options: Complete.
        dtype: Safetensors code of what the weight becomes when it is computed with.
    """
    return _SCHEMES[method](options, dtype)
