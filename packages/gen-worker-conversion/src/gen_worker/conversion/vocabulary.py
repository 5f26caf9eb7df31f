"""The names of precisions, one list for all: what may be asked for, and what that comes to."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "CONCRETE_DTYPES",
    "GGUF_TYPES",
    "SourceKind",
    "default_dtype_for_source",
    "flavor_of",
    "is_concrete_dtype",
    "is_fuzzy_bitwidth",
    "normalize_dtype",
    "resolve_fuzzy_to_concrete",
]

SourceKind = Literal[
    "gguf",
    "transformers",
    "diffusers",
    "diffusers-lora",
    "peft",
    "sentence-transformers",
    "aio_singlefile",
]

FLOATS = ("fp32", "fp16", "bf16", "f32", "f16")
LOW_FLOATS = ("fp8", "fp8:e4m3", "fp8:e5m2", "nvfp4", "mxfp4", "mxfp8", "nf4", "fp4")
INTEGERS = (
    "int8",
    "int4",
    "int4:wo",
    "int4:nf4",
    "int4:fp4",
    "int4:awq",
    "int4:gptq",
    "int4:gptq:g32",
    "int4:gptq:g64",
    "int4:gptq:g128",
    "int8:awq",
    "int8:gptq",
)
GGUF_TYPES = frozenset(
    "q1_0 q2_k q3_k_s q3_k_m q3_k_l q3_k_xl q4_0 q4_1 q4_k_s q4_k_m q4_k_l q4_0_4_4 q4_0_4_8 "
    "q4_0_8_8 q5_0 q5_1 q5_k_s q5_k_m q5_k_l q6_k q6_k_l q8_0 iq1_s iq1_m iq2_xs iq2_xxs iq2_s "
    "iq2_m iq3_xs iq3_xxs iq3_s iq3_m iq4_xs iq4_nl".split()
)
CONCRETE_DTYPES = frozenset({*FLOATS, *LOW_FLOATS, *INTEGERS, *GGUF_TYPES})

_ALIASES = {
    "fp8_e4m3": "fp8:e4m3",
    "fp8-e4m3": "fp8:e4m3",
    "fp8_e5m2": "fp8:e5m2",
    "fp8-e5m2": "fp8:e5m2",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
}
_FUZZY: Mapping[str, Mapping[int, Sequence[str]]] = MappingProxyType(
    {
        "gguf": {
            32: ("f32",),
            16: ("bf16", "f16"),
            8: ("q8_0",),
            6: ("q6_k_l", "q6_k"),
            5: ("q5_k_l", "q5_k_m", "q5_k_s", "q5_1", "q5_0"),
            4: ("q4_k_l", "q4_k_m", "q4_k_s", "q4_1", "q4_0"),
            3: ("q3_k_xl", "q3_k_l", "q3_k_m", "q3_k_s"),
            2: ("q2_k",),
        },
        "transformers": {
            32: ("fp32",),
            16: ("bf16", "fp16"),
            8: ("fp8:e4m3", "fp8:e5m2", "int8"),
            4: ("int4:awq", "int4:gptq", "nvfp4"),
        },
        "diffusers": {
            32: ("fp32",),
            16: ("bf16", "fp16"),
            8: ("fp8:e4m3", "fp8:e5m2"),
            4: ("nvfp4", "int4"),
        },
        "diffusers-lora": {32: ("fp32",), 16: ("bf16", "fp16"), 8: ("fp8:e4m3",)},
        "peft": {32: ("fp32",), 16: ("bf16", "fp16"), 8: ("fp8:e4m3",)},
        "sentence-transformers": {32: ("fp32",), 16: ("bf16", "fp16")},
        "aio_singlefile": {32: ("fp32",), 16: ("bf16", "fp16")},
    }
)
_DEFAULTS = ("bf16", "fp16", "fp32")
_GGUF_DEFAULTS = (
    "f16 bf16 q8_0 q6_k_l q6_k q5_k_l q5_k_m q5_k_s q5_1 q5_0 q4_k_l q4_k_m q4_k_s q4_1 q4_0 "
    "q3_k_xl q3_k_l q3_k_m q3_k_s q2_k f32"
).split()


def normalize_dtype(value: str) -> str:
    """Return a token as it is written here: lower case, without the spellings of others."""
    token = value.strip().lower().removeprefix("gguf:")
    return _ALIASES.get(token, token)


def is_concrete_dtype(value: str) -> bool:
    return normalize_dtype(value) in CONCRETE_DTYPES


def is_fuzzy_bitwidth(value: str) -> bool:
    """Tell whether a token asks for so many bits, as `4bit`."""
    return _bits_of(value) is not None


def resolve_fuzzy_to_concrete(
    value: str, *, source_kind: str, available_dtypes: Collection[str]
) -> str:
    """Return the first precision of so many bits that there is.

    Args:
        value: Such as `4bit`; a concrete token is returned as it is.
        source_kind: See `SourceKind`.
        available_dtypes: What the source has, or what it can be converted to.

    Raises:
        ValidationError: It is no precision, or the source has none of so many bits; the message
            names what would do.
    """
    token = normalize_dtype(value)
    bits = _bits_of(token)
    if bits is None:
        if token not in CONCRETE_DTYPES:
            raise ValidationError(f"{value!r} is no precision: {_advice(token)}")
        return token
    wanted = _FUZZY.get(source_kind, {}).get(bits, ())
    there = {normalize_dtype(one) for one in available_dtypes}
    found = next((one for one in wanted if one in there), None)
    if found is None:
        if not wanted:
            there_are = ", ".join(f"{one}bit" for one in _FUZZY.get(source_kind, {}))
            raise ValidationError(
                f"there is no precision of {bits} bits for {source_kind} models: "
                + (f"give one of {there_are}, or name a precision" if there_are else "name one")
            )
        raise ValidationError(
            f"{value!r} of a {source_kind} model is one of {', '.join(wanted)}, and there is only "
            f"{', '.join(sorted(there)) or 'nothing'}"
        )
    return found


def _advice(token: str) -> str:
    """Return what to give instead of a token that is no precision: what is written like it."""
    from difflib import get_close_matches

    if token == "gguf":
        return "give the type of the file, such as 'gguf:q4_k_m' or 'gguf:q8_0'"
    names = sorted(CONCRETE_DTYPES | _ALIASES.keys())
    parts = [name for name in names if len(token) > 2 and token in name]
    near = [*parts, *get_close_matches(token, names)]
    told = [repr(name) for name in dict.fromkeys(_ALIASES.get(name, name) for name in near)]
    if told:
        return f"did you mean {' or '.join(told[:3])}?"
    return "give one such as 'bf16', 'fp8:e4m3', 'q4_k_m' or '4bit'"


def default_dtype_for_source(source_kind: str, available_dtypes: Collection[str]) -> str | None:
    """Return what is taken when nothing is asked for; None when nothing of it is there."""
    order = _GGUF_DEFAULTS if source_kind == "gguf" else _DEFAULTS
    there = {normalize_dtype(one) for one in available_dtypes}
    return next((one for one in order if one in there), None)


def flavor_of(dtype: str) -> str:
    """Return what a flavor of this precision is called; a colon would end a ref's tag."""
    return normalize_dtype(dtype).replace(":", "-")


def _bits_of(value: str) -> int | None:
    token = normalize_dtype(value)
    number = token.removesuffix("bit").rstrip("-")
    return int(number) if token.endswith("bit") and number.isascii() and number.isdigit() else None
