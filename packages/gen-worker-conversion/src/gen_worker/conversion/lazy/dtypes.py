"""The dtypes of safetensors and torch's names for them."""

from __future__ import annotations

from typing import Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.models.formats import DTYPE_BITS
from gen_worker.models.reader.tensors import dtype_of

__all__ = ["FILE_ORDER", "FLOATS", "code_of", "size_bytes_of", "torch_dtype"]

FLOATS = ("F64", "F32", "F16", "BF16")
"""Those that a cast leads from one to another."""

FILE_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8"),
    *("F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
"""How the tensors of a file follow each other, so that each is aligned, as the `safetensors`
library 0.8 sorts them."""


def torch_dtype(code: str) -> Any:
    """Return torch's dtype for one of safetensors.

    Raises:
        ConversionInputError: The installed torch has none for it.
    """
    dtype = dtype_of(code)
    if dtype is None:
        raise ConversionInputError(
            f"the installed torch has no dtype {code!r}: convert such tensors with a newer torch, "
            "or leave them as they are"
        )
    return dtype


def code_of(dtype: Any) -> str:
    """Return the safetensors code of a torch dtype.

    Raises:
        ConversionInputError: The format has none for it.
    """
    code = next((code for code in DTYPE_BITS if dtype_of(code) is dtype), None)
    if code is None:
        raise ConversionInputError(
            f"a safetensors file cannot hold {dtype!r}: cast the tensor before it is written"
        )
    return code


def size_bytes_of(code: str, elements: int) -> int:
    """Return how many bytes so many elements take."""
    return elements * DTYPE_BITS[code] // 8
