"""Which types of GGUF files there are, what they are called, and which can be written here."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.vocabulary import GGUF_TYPES, normalize_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NOT_WRITTEN", "WRITTEN", "FileType", "file_type", "file_type_label"]


class FileType(NamedTuple):
    """One type of files: most weights have its base, some have more bits."""

    token: str
    """Such as `q4_k_m`."""
    number: int
    """Of `general.file_type`, as in llama.h of llama.cpp."""
    base: str
    """Type of the tensors, such as `Q4_K`."""
    mix: str
    """Name of the rule for the others, such as `Q4_K_M`; empty when all are of the base."""
    keeps: str = ""
    """Type of embeddings and output, where it is not what the rule says."""

    @property
    def is_plain(self) -> bool:
        return not self.mix


_FLOATS = (
    FileType("f32", 0, "F32", ""),
    FileType("f16", 1, "F16", ""),
    FileType("bf16", 32, "BF16", ""),
)
_BLOCKS = (
    FileType("q8_0", 7, "Q8_0", "Q8_0"),
    FileType("q6_k", 18, "Q6_K", "Q6_K"),
    FileType("q6_k_l", 18, "Q6_K", "Q6_K", "Q8_0"),
    FileType("q5_0", 8, "Q5_0", "Q5_0"),
    FileType("q5_1", 9, "Q5_1", "Q5_1"),
    FileType("q5_k_s", 16, "Q5_K", "Q5_K_S"),
    FileType("q5_k_m", 17, "Q5_K", "Q5_K_M"),
    FileType("q5_k_l", 17, "Q5_K", "Q5_K_M", "Q8_0"),
    FileType("q4_0", 2, "Q4_0", "Q4_0"),
    FileType("q4_1", 3, "Q4_1", "Q4_1"),
    FileType("iq4_nl", 25, "IQ4_NL", "IQ4_NL"),
    FileType("iq4_xs", 30, "IQ4_XS", "IQ4_XS"),
    FileType("q4_k_s", 14, "Q4_K", "Q4_K_S"),
    FileType("q4_k_m", 15, "Q4_K", "Q4_K_M"),
    FileType("q4_k_l", 15, "Q4_K", "Q4_K_M", "Q8_0"),
    FileType("q3_k_s", 11, "Q3_K", "Q3_K_S"),
    FileType("q3_k_m", 12, "Q3_K", "Q3_K_M"),
    FileType("q3_k_l", 13, "Q3_K", "Q3_K_L"),
    FileType("q3_k_xl", 13, "Q3_K", "Q3_K_L", "Q8_0"),
    FileType("q2_k", 10, "Q2_K", "Q2_K"),
)
WRITTEN: Mapping[str, FileType] = MappingProxyType({one.token: one for one in (*_FLOATS, *_BLOCKS)})
"""By token, the most precise first."""

_REPACKED = "it is made of q4_0 when such a file is loaded: choose q4_0"
_TABLES = "its values come from tables that are not built in: choose q2_k, q3_k_s or q4_k_s"
NOT_WRITTEN: Mapping[str, str] = MappingProxyType(
    {
        token: _REPACKED if token.startswith("q4_0_") else _TABLES
        for token in sorted(GGUF_TYPES - set(WRITTEN))
    }
)
"""Why not, and what instead, by token."""


_LABELS = {
    **{0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k"},
    **{11: "q3_k_s", 12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s"},
    **{17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs"},
    **{23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s"},
    **{29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0"},
    38: "mxfp4_moe",
}
"""Values of `general.file_type`: `llama_ftype` of llama.h."""


def file_type_label(number: int) -> str:
    """Return what a value of `general.file_type` is called, such as `q4_k_m`."""
    return _LABELS.get(number, f"type {number}")


def file_type(token: str) -> FileType:
    """Return the type of files that a token asks for.

    Raises:
        ConversionInputError: There is none, or none that can be written; the message says why.
    """
    wanted = normalize_dtype(token)
    wanted = {"fp32": "f32", "fp16": "f16"}.get(wanted, wanted)
    found = WRITTEN.get(wanted)
    if found is None:
        why = NOT_WRITTEN.get(wanted, f"known are {', '.join(WRITTEN)}")
        raise ConversionInputError(f"GGUF files of type {token!r} cannot be written: {why}")
    return found
