"""Importance matrices of llama.cpp: how much each column of a weight matters to real texts."""

from __future__ import annotations

import math
import os
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.lazy import Extent
from gen_worker.conversion.lazy.gguf_file import gguf_tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

__all__ = ["Importance", "check_names", "importance_of", "read_importance"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_LAYER = re.compile(r"blk\.\d+\.")
_MAX_BYTES = 1 << 30
_MAX_NAME_BYTES = 1024


class Importance(NamedTuple):
    """Mean squares of what reaches the columns of tensors."""

    path: str
    values: Mapping[str, torch.Tensor]
    """(columns) float32, by name of the tensor in GGUF files; of all experts one after another."""

    @property
    def source(self) -> Extent:
        """The file, as what a tensor is made of."""
        return Extent(self.path, 0, os.stat(self.path).st_size)


def read_importance(path: str | os.PathLike[str]) -> Importance:
    """Read an importance matrix, as GGUF or in the older format of llama.cpp.

    Raises:
        OSError: It cannot be read.
        DamagedFileError: It is a damaged GGUF file.
        GgufSourceError: It is no importance matrix, or holds what is no number.
    """
    place = os.path.abspath(os.fspath(path))
    with open(place, "rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    found = _of_gguf(place) if is_gguf else _of_older(place)
    if not found:
        raise _unsound(place, "it has no entries")
    for name, value in found.items():
        if not bool(value.isfinite().all()) or bool((value < 0).any()):
            raise _unsound(place, f"its entry {name!r:.200} has values that no squares have")
    return Importance(place, found)


def _of_gguf(path: str) -> dict[str, Any]:
    tensors = gguf_tensors(path)
    found: dict[str, Any] = {}
    for name in tensors:
        if not name.endswith(_SUMS):
            continue
        plain = name.removesuffix(_SUMS)
        if plain + _COUNTS not in tensors:
            raise _unsound(path, f"its entry {plain!r:.200} has no counts")
        sums, counts = tensors[name].tensor(), tensors[plain + _COUNTS].tensor()
        if sums.numel() == 0 or sums.numel() % max(counts.numel(), 1):
            raise _unsound(path, f"its entry {plain!r:.200} has counts of other experts")
        counts = counts.reshape(-1, 1)
        means = sums.reshape(len(counts), -1) / counts.clamp(min=1)
        means = means.masked_fill(counts <= 0, 1.0)  # an expert that no text reached
        found[plain] = means.reshape(-1).float()
    return found


def _of_older(path: str) -> dict[str, Any]:
    import torch

    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    found: dict[str, Any] = {}
    try:
        (entries,) = struct.unpack_from("<i", content)
        position = 4
        for _ in range(entries):
            (size,) = struct.unpack_from("<i", content, position)
            if not 0 < size <= _MAX_NAME_BYTES:
                raise ValueError(f"a name of {size} bytes")
            name = content[position + 4 : position + 4 + size].decode()
            position += 4 + size
            calls, count = struct.unpack_from("<2i", content, position)
            values = struct.unpack_from(f"<{max(count, 0)}f", content, position + 8)
            position += 8 + 4 * len(values)
            found[name] = torch.tensor(values, dtype=torch.float32) / (calls if calls > 0 else 1)
    except (struct.error, ValueError) as error:
        raise _unsound(path, str(error)) from error
    return found


def _unsound(path: str, why: str) -> GgufSourceError:
    return GgufSourceError(
        f"{path!r} is no importance matrix of llama.cpp: {why}; make it again with llama-imatrix",
        code="gguf_invalid_importance",
        file=path,
    )


def importance_of(
    importance: Importance | None, name: str, shape: tuple[int, ...]
) -> torch.Tensor | None:
    """Return the values for a tensor, (columns), or (experts, columns); None where there are none.

    Raises:
        GgufSourceError: They are for a tensor of another shape.
    """
    found = None if importance is None else importance.values.get(name)
    if importance is None or found is None:
        return None
    experts = math.prod(shape[:-2])
    if len(found) != shape[-1] * experts:
        raise GgufSourceError(
            f"{importance.path!r} has {len(found)} values for the tensor {name!r} of "
            f"{list(shape)!r}: take the importance matrix of this model",
            code="gguf_invalid_importance",
            file=importance.path,
            tensor=name,
        )
    return found if len(shape) < 3 else found.reshape(experts, shape[-1])


def check_names(importance: Importance | None, names: Collection[str]) -> None:
    """Refuse an importance matrix of a model that has other layers.

    Raises:
        GgufSourceError: It has an entry for a tensor of a layer that is not one of these.
    """
    if importance is None:
        return
    other = next((one for one in importance.values if _LAYER.match(one) and one not in names), None)
    if other is not None:
        raise GgufSourceError(
            f"{importance.path!r} has values for the tensor {other!r}, which the model lacks: take "
            "the importance matrix of this model",
            code="gguf_invalid_importance",
            file=importance.path,
            tensor=other,
        )
