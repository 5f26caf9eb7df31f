"""What may be asked for: precisions, types of GGUF, and numbers of bits that come to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.vocabulary import (
    GGUF_TYPES,
    flavor_of,
    is_fuzzy_bitwidth,
    normalize_dtype,
    resolve_fuzzy_to_concrete,
)
from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["KEEP", "SOURCE_KINDS", "Target", "is_cast", "resolved_targets"]

_GGUF = "gguf:"
KEEP = "keep"
"""Of a GGUF file whose tensors stay what they are: to split it, to join it, to relabel it."""
_GGUF_FLOATS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "f32": "f32", "f16": "f16"}
SOURCE_KINDS = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "gguf": "gguf",
    "peft": "peft",
    "sentence_transformers": "sentence-transformers",
    "singlefile": "aio_singlefile",
}
"""Words of the vocabulary by layout."""


class Target(NamedTuple):
    """One output that is asked for."""

    token: str
    """A concrete precision, such as `bf16` or `q4_k_m`."""
    is_gguf: bool

    @property
    def name(self) -> str:
        return f"{_GGUF}{self.token}" if self.is_gguf else self.token

    @property
    def flavor(self) -> str:
        if self.is_gguf and self.token not in GGUF_TYPES:
            return "gguf" if self.token == KEEP else f"gguf-{self.token}"
        return flavor_of(self.token)


def resolved_targets(
    tokens: Sequence[str],
    *,
    source_kind: str,
    available: Collection[str],
    of_bits: Callable[[str, str], str],
) -> tuple[tuple[Target, ...], tuple[tuple[str, str], ...]]:
    """Return the outputs that tokens ask for, each once, and the tokens that mean none, with why.

    Args:
        tokens: Such as `bf16`, `fp8`, `gguf:q4_k_m`, `q8_0` or `4bit`.
        source_kind: See `vocabulary.SourceKind`.
        available: Precisions that can be made; GGUF levels among them.
        of_bits: Gives the one that a number of bits comes to, of the token and a kind of source.
    """
    found: dict[Target, None] = {}
    refused: list[tuple[str, str]] = []
    for text in tokens:
        try:
            found[_target(text, source_kind, available, of_bits)] = None
        except ValidationError as error:
            refused.append((text, str(error)))
    return tuple(found), tuple(refused)


def _target(
    text: str, source_kind: str, available: Collection[str], of_bits: Callable[[str, str], str]
) -> Target:
    word = text.strip().lower()
    wants_gguf = word.startswith(_GGUF)
    token = normalize_dtype(word)
    if wants_gguf and token == KEEP:
        return Target(token, True)
    if is_fuzzy_bitwidth(token):
        token = of_bits(token, "gguf" if wants_gguf else source_kind)
    if token not in available:
        _refuse_elsewhere(token)
        resolve_fuzzy_to_concrete(token, source_kind=source_kind, available_dtypes=())
    if not wants_gguf:
        token = {"f32": "fp32", "f16": "fp16"}.get(token, token)
        return Target(token, token in GGUF_TYPES)
    if token not in GGUF_TYPES and token not in _GGUF_FLOATS:
        raise ConversionInputError(
            f"{text!r} is no type of GGUF files: give one such as 'gguf:q4_k_m' or 'gguf:f16'"
        )
    return Target(_GGUF_FLOATS.get(token, token), True)


def _refuse_elsewhere(token: str) -> None:
    """Refuse a method that needs data, or that is done by an endpoint of its own; say by which."""
    from gen_worker.conversion.quantize.methods import METHODS, OTHERS_METHODS, lookup_method

    if token in OTHERS_METHODS:
        lookup_method(token)
    needing = (one for one in METHODS.values() if one.calibration == "required")
    if token in {name for one in needing for name in (one.name, *one.aliases)}:
        raise ConversionInputError(
            f"{token!r} needs data to be calibrated with: give a dataset or a file of text, "
            "`calibration` in Python and --calibrate on the command line",
            step="quantize",
        )


def is_cast(target: Target) -> bool:
    """Tell whether a target is a plain precision in safetensors."""
    return not target.is_gguf and target.token in CAST_DTYPES
