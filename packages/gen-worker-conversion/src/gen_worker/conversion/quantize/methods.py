"""Ways to give weights fewer bits, by name: what each needs, where it is written, who reads it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import msgspec

from gen_worker.conversion.calibration import CalibrationPolicy
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.vocabulary import GGUF_TYPES, normalize_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "METHODS",
    "OTHERS_METHODS",
    "Layout",
    "Method",
    "MethodElsewhere",
    "Need",
    "lookup_method",
]

Layout = Literal["plain", "compressed-tensors", "torchao", "bitsandbytes"]
Need = Literal["rows", "row-blocks", "two-passes", "inputs"]
"""What making some rows of a weight reads: these rows, the blocks they lie in, or all rows before
them once, slab by slab; or what goes into their layer, which a pass through the model has found
before. None of our methods has a whole weight in memory."""

LOADERS: Mapping[Layout, tuple[str, ...]] = MappingProxyType(
    {
        "plain": ("safetensors",),
        "compressed-tensors": ("transformers", "vllm", "sglang"),
        "torchao": ("transformers", "diffusers"),
        "bitsandbytes": ("transformers", "diffusers"),
    }
)
"""Which libraries read a layout."""


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One method that is done here, on the CPU, slab by slab."""

    name: str
    aliases: tuple[str, ...] = ()
    bits: float
    """Of one weight, without its scales."""
    layouts: tuple[Layout, ...]
    """Where it can be written, the default first."""
    needs: Need
    granularities: tuple[str, ...] = ()
    """What may share a scale, the default first; empty where the format says it."""
    group_size: int = 0
    """Default number of elements of a row with one scale; 0 where there are no groups."""
    dimensions: tuple[int, ...] = (2,)
    """Of tensors that it applies to; every loader quantizes linear layers only."""
    calibration: CalibrationPolicy = "unsupported"
    """What data do: `beneficial` where they give activations a scale."""
    is_gptq: bool = False
    """Whether weights are fitted to inputs by GPTQ."""
    dtype: str = ""
    """What readers unpack weights to, where it is one for all: by default the rest becomes that."""
    library: str = "gen-worker"
    """What does the work; the layout says which library reads the result."""
    about: str

    @property
    def loaders(self) -> tuple[str, ...]:
        """Return who reads any of its layouts."""
        return tuple(dict.fromkeys(name for layout in self.layouts for name in LOADERS[layout]))


class MethodElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A method with a name that is not done here: it measures activations in its own runtime."""

    name: str
    scheme: str
    """As lineage and calibration policies have it."""
    runtime: str
    """Library that does it, in an endpoint of its own."""
    calibration: CalibrationPolicy
    requires_gpu: bool = True

    @property
    def requires_calibration(self) -> bool:
        return self.calibration == "required"


_EIGHT = ("row", "tensor", "block")
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                name="fp8:e4m3",
                aliases=("fp8",),
                bits=8,
                layouts=("compressed-tensors", "torchao"),
                needs="rows",
                granularities=_EIGHT,
                calibration="beneficial",
                about="float8_e4m3fn with float32 scales, per row, tensor or block of 128 x 128",
            ),
            Method(
                name="fp8:e5m2",
                bits=8,
                layouts=("torchao",),
                needs="rows",
                granularities=("row", "tensor"),
                about="float8_e5m2 with float32 scales; compressed-tensors has no such format",
            ),
            Method(
                name="fp8:e4m3:storage",
                bits=8,
                layouts=("plain",),
                needs="rows",
                dimensions=(2, 3, 4, 5),
                about="float8_e4m3fn without scales, clamped at 448: to be cast up layer by layer",
            ),
            Method(
                name="fp8:e5m2:storage",
                bits=8,
                layouts=("plain",),
                needs="rows",
                dimensions=(2, 3, 4, 5),
                about="float8_e5m2 without scales, clamped at 57344: likewise",
            ),
            Method(
                name="int8",
                bits=8,
                layouts=("compressed-tensors", "torchao", "bitsandbytes"),
                needs="rows",
                granularities=("row",),
                calibration="beneficial",
                about="signed bytes with a float32 scale per row",
            ),
            Method(
                name="int4:wo",
                aliases=("int4_wo",),
                bits=4,
                layouts=("compressed-tensors",),
                needs="rows",
                granularities=("group",),
                group_size=128,
                about="integers of 4 bits packed in int32, a scale per group of a row",
            ),
            *(
                Method(
                    name=f"int4:gptq{suffix}",
                    aliases=aliases,
                    bits=4,
                    layouts=("compressed-tensors",),
                    needs="inputs",
                    granularities=("group",),
                    group_size=group_size,
                    calibration="required",
                    is_gptq=True,
                    about="as int4:wo, the integers fitted to the inputs of their layer by GPTQ",
                )
                for suffix, aliases, group_size in (
                    ("", ("int4:gptq:g128",), 128),
                    (":g64", (), 64),
                    (":g32", (), 32),
                )
            ),
            Method(
                name="int8:gptq",
                bits=8,
                layouts=("compressed-tensors",),
                needs="inputs",
                granularities=("row",),
                calibration="required",
                is_gptq=True,
                about="integers of 8 bits packed in int32, a scale per row, fitted by GPTQ",
            ),
            Method(
                name="nf4",
                aliases=("int4", "int4:nf4"),
                bits=4,
                layouts=("bitsandbytes",),
                needs="row-blocks",
                group_size=64,
                about="16 quantiles of the normal distribution, absolute maxima quantized again",
            ),
            Method(
                name="fp4",
                aliases=("int4:fp4",),
                bits=4,
                layouts=("bitsandbytes",),
                needs="row-blocks",
                group_size=64,
                about="bitsandbytes' own floats of 4 bits, absolute maxima quantized again",
            ),
            Method(
                name="mxfp8",
                dtype="bf16",
                bits=8,
                layouts=("compressed-tensors",),
                needs="rows",
                group_size=32,
                about="OCP microscaling: float8_e4m3fn, a power of two per 32 elements",
            ),
            Method(
                name="mxfp4",
                dtype="bf16",
                bits=4,
                layouts=("compressed-tensors",),
                needs="rows",
                group_size=32,
                about="OCP microscaling: e2m1 in pairs, a power of two per 32 elements",
            ),
            Method(
                name="nvfp4",
                dtype="bf16",
                bits=4,
                layouts=("compressed-tensors",),
                needs="two-passes",
                group_size=16,
                about="e2m1 in pairs, an e4m3 scale per 16 elements and a float32 one per tensor",
            ),
        )
    }
)
OTHERS_METHODS: Mapping[str, MethodElsewhere] = MappingProxyType(
    {
        method.name: method
        for method in (
            *(
                MethodElsewhere(
                    name=name,
                    scheme=name.replace(":", "_"),
                    runtime="modelopt",
                    calibration="required",
                )
                for name in ("int4:awq", "int8:awq", "w4a8_awq")
            ),
            MethodElsewhere(
                name="svdquant", scheme="svdquant", runtime="nunchaku", calibration="required"
            ),
            MethodElsewhere(name="hqq", scheme="hqq", runtime="hqq", calibration="unsupported"),
        )
    }
)
_NAMES = MappingProxyType(
    {name: method for method in METHODS.values() for name in (method.name, *method.aliases)}
)


def lookup_method(name: str) -> Method:
    """Return a method by its name or one of its other names.

    Raises:
        ConversionInputError: It is none of those done here; the message says where it is done.
    """
    token = normalize_dtype(name)
    found = _NAMES.get(token)
    if found is not None:
        return found
    elsewhere = OTHERS_METHODS.get(token)
    if elsewhere is not None:
        why = (
            "needs data to be calibrated with" if elsewhere.requires_calibration else "is not ours"
        )
        reason = f"{why}: it is done by {elsewhere.runtime}, in an endpoint of its own"
    elif token in GGUF_TYPES:
        reason = "is a type of GGUF files: write one"
    else:
        reason = f"is no method of quantization: give one of {', '.join(sorted(METHODS))}"
    raise ConversionInputError(f"{name!r} {reason}", step="quantize")
