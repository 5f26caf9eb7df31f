"""Which tensor goes to which file, worked out before the first is read, and the files' headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.dtypes import FILE_ORDER, size_bytes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_SAFETENSORS_SHARD_BYTES",
    "SafetensorsShardPlan",
    "TensorFacts",
    "build_safetensors_index",
    "file_order",
    "header_bytes",
    "plan_safetensors_shards",
]

MAX_SAFETENSORS_SHARD_BYTES = 5 << 30
_ALIGNMENT = 8


class SafetensorsShardPlan(NamedTuple):
    """The files of one component."""

    shard_names: tuple[str, ...]
    weight_map: Mapping[str, str]
    """Name of its file by the name of a tensor."""
    shard_sizes: Mapping[str, int]
    """Bytes of the tensors in a file, by its name."""
    total_size: int

    @property
    def is_sharded(self) -> bool:
        return len(self.shard_names) > 1


class TensorFacts(NamedTuple):
    """What a header says about a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        elements = 1
        for size in self.shape:
            elements *= size
        return size_bytes_of(self.dtype, elements)


def plan_safetensors_shards(
    tensor_bytes: Mapping[str, int],
    *,
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    shard_prefix: str = "model",
) -> SafetensorsShardPlan:
    """Fill files one after another in the order of the tensors' names.

    A tensor above the limit gets a file of its own.

    Raises:
        ConversionInputError: A size or the limit is no positive number of bytes.
    """
    if max_shard_bytes < 1:
        raise ConversionInputError(f"max_shard_bytes is {max_shard_bytes!r}: give at least 1")
    groups: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensor_bytes):
        size = tensor_bytes[name]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ConversionInputError(
                f"tensor_size_invalid:{name}: {size!r} is no number of bytes", tensor=name
            )
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    names = _file_names(shard_prefix, len(groups))
    return SafetensorsShardPlan(
        names,
        {name: file for file, group in zip(names, groups, strict=True) for name in group},
        {
            file: sum(tensor_bytes[name] for name in group)
            for file, group in zip(names, groups, strict=True)
        },
        sum(tensor_bytes.values()),
    )


def _file_names(prefix: str, count: int) -> tuple[str, ...]:
    if count == 1:
        return (f"{prefix}.safetensors",)
    return tuple(
        f"{prefix}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
    )


def build_safetensors_index(plan: SafetensorsShardPlan) -> dict[str, Any]:
    """Return the content of `<prefix>.safetensors.index.json`."""
    return {
        "metadata": {"total_size": plan.total_size},
        "weight_map": {name: plan.weight_map[name] for name in sorted(plan.weight_map)},
    }


def file_order(tensors: Mapping[str, TensorFacts]) -> list[str]:
    """Return the names in the order of their bytes: the widest dtypes first, so all are aligned.

    The same as the `safetensors` library's, so that the bytes are the same, too.
    """
    return sorted(tensors, key=lambda name: (FILE_ORDER.index(tensors[name].dtype), name))


def header_bytes(tensors: Mapping[str, TensorFacts], metadata: Mapping[str, str]) -> bytes:
    """Return the start of a file with these tensors in this order; the data follows at once."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, facts in tensors.items():
        end = offset + facts.size_bytes
        header[name] = {"dtype": facts.dtype, "shape": facts.shape, "data_offsets": (offset, end)}
        offset = end
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
