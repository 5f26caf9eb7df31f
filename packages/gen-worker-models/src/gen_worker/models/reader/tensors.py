"""Views of memory as the tensors that a header describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.models.formats import Header, TensorInfo
    from gen_worker.models.reader.plan import Run

__all__ = ["check_dtypes", "dtype_of", "shape_of", "views"]

_DTYPES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
"""Names of torch's dtypes; it has none for `F6_E2M3` and `F6_E3M2`."""


def check_dtypes(tensors: Mapping[str, TensorInfo], path: str) -> None:
    """Refuse, before anything is read, what this torch has no dtype for.

    Raises:
        ValidationError: Names the dtypes.
    """
    wanted = {info.dtype for info in tensors.values()}
    unknown = sorted(name for name in wanted if dtype_of(name) is None)
    unknown += [f"F4 of shape {list(info.shape)}" for info in tensors.values() if _is_odd(info)]
    if unknown:
        raise ValidationError(
            f"file {path!r} has tensors of the dtype {', '.join(unknown)}, which the installed "
            "torch lacks: convert them, or install a newer torch"
        )


def _is_odd(info: TensorInfo) -> bool:
    """Tell whether a row of `F4` ends inside a byte, which torch cannot have."""
    return info.dtype == "F4" and info.shape[-1] % 2 != 0


def dtype_of(name: str) -> Any:
    """Return torch's dtype for one of safetensors; None when it has none."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    return getattr(torch, _DTYPES.get(name, ""), None)


def shape_of(info: TensorInfo) -> tuple[int, ...]:
    """Return the shape that torch gives the tensor: two elements of `F4` are one of its."""
    if info.dtype != "F4":
        return info.shape
    return (*info.shape[:-1], info.shape[-1] // 2)


def views(
    tensors: Mapping[str, TensorInfo], header: Header, runs: Sequence[Run], memory: Any
) -> dict[str, Any]:
    """Return tensors that share `memory`, a tensor of bytes laid out as `runs` say.

    One whose bytes begin between two of its elements is copied; only old files have such.
    """
    found: dict[str, Any] = {}
    at = 0
    for name, info in tensors.items():
        start = header.data_start + info.start
        while at + 1 < len(runs) and start >= runs[at].end and info.size_bytes:
            at += 1
        place = runs[at].place(start) if info.size_bytes else 0
        found[name] = _view(info, memory[place : place + info.size_bytes])
    return found


def _view(info: TensorInfo, data: Any) -> Any:
    dtype = dtype_of(info.dtype)
    if data.storage_offset() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype).view(shape_of(info))
