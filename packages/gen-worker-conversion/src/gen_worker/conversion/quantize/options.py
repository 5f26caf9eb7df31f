"""What is asked of a method, checked, and made complete by its defaults. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.quantize.methods import Layout
from gen_worker.conversion.vocabulary import normalize_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.conversion.quantize.methods import Method

__all__ = ["Activations", "QuantizeOptions", "completed"]

Activations = Literal["none", "dynamic", "static"]
_BNB_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_LAYOUT_GRANULARITIES = {"torchao": ("row", "tensor"), "bitsandbytes": ("row",)}
_ROUNDED = ("fp8:e4m3", "int8")
"""Whose activations can be rounded, too."""


class QuantizeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Empty values take the method's default."""

    layout: Layout | Literal[""] = ""
    granularity: str = ""
    """What shares a scale: `row`, `tensor` or `block` of 128 x 128; `group` for integers."""
    group_size: int = 0
    """Elements with one scale, for the methods that have groups."""
    symmetric: bool = True
    """Without zero points."""
    double_quant: bool = True
    """NF4 and FP4: absolute maxima are quantized, too."""
    activations: Activations = "none"
    """Whether loaders quantize what goes into a layer, too: by scales that are computed for every
    token (`dynamic`), or by one that calibration has found (`static`)."""
    damping: float = 0.01
    """GPTQ: what is added to the diagonal of the products of inputs, as a share of its mean."""
    by_activation: bool = True
    """GPTQ: whether columns with the largest inputs are rounded first."""
    dtype: str = ""
    """Token of the precision of all that is not quantized, and that weights are computed with
    (`bf16`, `fp16`, `fp32`); by default the method's, and else each keeps its own."""


def completed(method: Method, options: QuantizeOptions) -> QuantizeOptions:
    """Fill in the defaults.

    Raises:
        ConversionInputError: Names everything that this method cannot do.
    """
    layout = options.layout or method.layouts[0]
    granularities = [
        name
        for name in method.granularities
        if name in _LAYOUT_GRANULARITIES.get(layout, method.granularities)
    ]
    default = granularities[0] if granularities else ""
    full = msgspec.structs.replace(
        options,
        layout=layout,
        granularity=options.granularity or default,
        group_size=options.group_size or method.group_size,
        dtype=normalize_dtype(options.dtype or method.dtype),
    )
    problems = list(_problems(method, full, granularities))
    if problems:
        raise ConversionInputError(f"{method.name!r} {'; '.join(problems)}", step="quantize")
    return full


def _problems(method: Method, options: QuantizeOptions, granularities: list[str]) -> Iterator[str]:
    if options.layout not in method.layouts:
        yield f"is written as {' or '.join(method.layouts)}, not as {options.layout!r}"
    elif options.granularity and options.granularity not in granularities:
        there = " or ".join(granularities) or "its format's own blocks"
        yield f"has scales by {there} in {options.layout}, not by {options.granularity!r}"
    if not method.group_size and options.group_size:
        yield f"has no groups, and {options.group_size} is asked for"
    elif method.bits == 4 and "bitsandbytes" in method.layouts:
        if options.group_size not in _BNB_SIZES:
            yield f"has blocks of {', '.join(map(str, _BNB_SIZES))}, not {options.group_size}"
    elif "group" in method.granularities:
        if options.group_size < 8 or options.group_size % 8:
            yield f"has groups of a multiple of 8 elements, not {options.group_size}"
    elif options.group_size != method.group_size:
        yield f"has blocks of {method.group_size} by its format, not {options.group_size}"
    if not options.symmetric and "group" not in method.granularities:
        yield "is symmetric"
    if options.activations != "none" and (
        method.name not in _ROUNDED
        or options.layout != "compressed-tensors"
        or options.granularity == ("tensor" if options.activations == "dynamic" else "block")
    ):
        yield f"does not say as {options.layout} how activations are quantized"
    if not method.is_gptq and (options.damping != 0.01 or not options.by_activation):
        yield "is not fitted to inputs"
    elif not 0 < options.damping < 1:
        yield f"takes a damping between 0 and 1, not {options.damping}"
    if options.dtype and options.dtype not in CAST_DTYPES:
        yield f"leaves the rest in bf16, fp16 or fp32, not in {options.dtype!r}"
