"""Other readers of safetensors for GPUs, used where they are installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.errors import FunctionUnavailableError
from gen_worker.models.formats.damage import DamagedSafetensorsError
from gen_worker.models.reader.tensors import dtype_of, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.models.formats import TensorInfo

__all__ = ["Backend", "available_backends", "chosen_backends", "read_with"]

Backend = Literal["auto", "own", "instanttensor", "fastsafetensors"]

_ORDER: tuple[Backend, ...] = ("instanttensor", "fastsafetensors")


def available_backends() -> tuple[Backend, ...]:
    """Return the installed ones, the preferred one first, and our own; nothing is imported."""
    from importlib.util import find_spec

    found = (name for name in _ORDER if name in sys.modules or find_spec(name) is not None)
    return (*found, "own")


def chosen_backends(
    wanted: Backend, *, device_type: str, is_hashed: bool, is_partial: bool
) -> tuple[Backend, ...]:
    """Return which to try, one after another.

    The others read whole files into CUDA devices and hash nothing; `auto` takes them for that
    only.

    Raises:
        FunctionUnavailableError: The wanted one is not installed, or cannot do this.
    """
    if wanted == "own":
        return ("own",)
    fits = device_type == "cuda" and not is_hashed and not is_partial
    if wanted == "auto":
        return available_backends() if fits else ("own",)
    if not fits:
        raise FunctionUnavailableError(
            f"the reader {wanted!r} reads whole files into CUDA devices without hashing them, this "
            f"is for {device_type!r}: leave out `backend`",
            reason="backend_unfit",
        )
    if wanted not in available_backends():
        raise FunctionUnavailableError(
            f"the reader {wanted!r} is not installed: `pip install {wanted}`, or leave out "
            "`backend`",
            reason="backend_missing",
        )
    return (wanted,)


def read_with(
    backend: Backend, paths: Sequence[str], wanted: Sequence[Mapping[str, TensorInfo]], device: Any
) -> list[dict[str, Any]]:
    """Read whole files with another reader; each tensor has memory of its own.

    Raises:
        DamagedSafetensorsError: It read something else than the headers say.
        Exception: Whatever that reader raises.
    """
    readers: dict[Backend, Callable[[list[str], Any], dict[str, Any]]] = {
        "instanttensor": _instanttensor,
        "fastsafetensors": _fastsafetensors,
    }
    found = []
    for path, tensors in zip(paths, wanted, strict=True):  # names may be the same in two files
        read = readers[backend]([path], device)
        _check(backend, path, tensors, read)
        found.append({name: read[name] for name in tensors})
    return found


def _instanttensor(paths: list[str], device: Any) -> dict[str, Any]:
    import instanttensor  # type: ignore[import-not-found,unused-ignore]

    # Without `copy`: some versions lack it, and then hand out views of their ring.
    with instanttensor.safe_open(paths, framework="pt", device=device) as opened:
        return {name: tensor.clone() for name, tensor in opened.tensors()}


def _fastsafetensors(paths: list[str], device: Any) -> dict[str, Any]:
    from fastsafetensors import (  # type: ignore[import-not-found,unused-ignore]
        fastsafe_open,
    )

    with fastsafe_open(filenames=paths, framework="pt", device=str(device), nogds=True) as opened:
        return {name: opened.get_tensor(name).clone().detach() for name in opened.keys()}


def _check(
    backend: Backend, path: str, tensors: Mapping[str, TensorInfo], read: Mapping[str, Any]
) -> None:
    for name, info in tensors.items():
        tensor = read.get(name)
        expected = (dtype_of(info.dtype), shape_of(info))
        actual = None if tensor is None else (tensor.dtype, tuple(tensor.shape))
        if actual != expected:
            raise DamagedSafetensorsError(
                path,
                "tensor_shape",
                f"{backend} read tensor {name!r} as {actual!r}, its header says {expected!r}",
                expected=expected,
                actual=actual,
                remedy="read it with backend='own'",
            )
