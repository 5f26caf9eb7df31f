"""Mixtures of experts: one tensor of a layer, where transformers has one for each expert.

Recipes alone are put together: rows of the large tensor are rows of the experts' own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.lazy import concat, narrow, reshape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["expert_count", "one_by_one", "stacked_experts"]

_ONE = re.compile(
    r"(?P<layer>.+)\.(?:mlp|block_sparse_moe)\.experts\.(?P<number>\d+)\.(?P<part>\w+)\.weight"
)
_JOINED = re.compile(r"(?P<layer>.+)\.mlp\.experts\.(?P<part>gate_up_proj|down_proj)(?:\.weight)?")
_OF_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_STACKED = re.compile(r"(?P<layer>.+)\.mlp\.experts\.(?P<part>\w+)")


def expert_count(config: Mapping[str, Any]) -> int:
    """Return how many experts a layer has; 0 for a dense model."""
    value = config.get("num_local_experts") or config.get("num_experts")
    return value if isinstance(value, int) else 0


def stacked_experts(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """Return the tensors with those of a layer's experts as one: (experts, rows, columns).

    They are called such as `model.layers.0.mlp.experts.gate_proj.weight`.

    Args:
        checkpoint: Of transformers; experts may be one by one or joined.
        config: What `config.json` says.

    Raises:
        GgufSourceError: The weight of an expert is missing, or of another shape or dtype.
    """
    count = expert_count(config)
    made: dict[str, LazyTensor] = {}
    groups: dict[str, dict[int, tuple[str, LazyTensor]]] = {}
    for name, tensor in checkpoint.items():
        joined = _JOINED.fullmatch(name)
        one = _ONE.fullmatch(name)
        if joined is not None and len(tensor.shape) == 3:
            made |= _parted(f"{joined['layer']}.mlp.experts", joined["part"], tensor)
        elif one is not None and count:
            part = _OF_MIXTRAL.get(one["part"], one["part"])
            group = groups.setdefault(f"{one['layer']}.mlp.experts.{part}.weight", {})
            group[int(one["number"])] = name, tensor
        else:
            made[name] = tensor
    return made | {name: _stacked(name, group, count) for name, group in groups.items()}


def one_by_one(name: str, tensor: LazyTensor, *, is_mixtral: bool) -> dict[str, LazyTensor]:
    """Return a tensor of all experts of a layer as transformers names them, one per expert.

    Args:
        name: Such as `model.layers.0.mlp.experts.gate_proj`; any other gives no tensors.
        tensor: (experts, rows, columns).
        is_mixtral: Whether the names are those of Mixtral.
    """
    match = _STACKED.fullmatch(name)
    if match is None:
        return {}
    place, part = f"{match['layer']}.mlp.experts", match["part"]
    if is_mixtral:
        place = f"{match['layer']}.block_sparse_moe.experts"
        part = next(theirs for theirs, ours in _OF_MIXTRAL.items() if ours == part)
    count, rows, columns = tensor.shape
    flat = reshape(tensor, (count * rows, columns))
    return {
        f"{place}.{number}.{part}.weight": narrow(flat, 0, number * rows, rows)
        for number in range(count)
    }


def _stacked(name: str, group: Mapping[int, tuple[str, LazyTensor]], count: int) -> LazyTensor:
    missing = sorted(set(range(count)) ^ set(group))
    if missing:
        raise _unfit(name, f"it has {len(group)} experts and {count} were expected, see {missing}")
    tensors = [group[number][1] for number in range(count)]
    first = tensors[0]
    for number in range(count):
        other, tensor = group[number]
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype) or len(tensor.shape) != 2:
            raise _unfit(other, f"{tensor!r} is not like {first!r} of the first expert")
    return reshape(concat(tensors), (count, *first.shape))


def _parted(place: str, part: str, tensor: LazyTensor) -> dict[str, LazyTensor]:
    """Return the parts of a tensor that has all experts already: gate and up may be one."""
    if part != "gate_up_proj":
        return {f"{place}.{part}.weight": tensor}
    count, rows, columns = tensor.shape
    if rows % 2:
        raise _unfit(f"{place}.{part}", f"{rows} rows are not two parts of one size")
    flat, half = reshape(tensor, (count * rows, columns)), rows // 2
    return {
        f"{place}.{name}.weight": reshape(
            concat([narrow(flat, 0, number * rows + start, half) for number in range(count)]),
            (count, half, columns),
        )
        for name, start in (("gate_proj", 0), ("up_proj", half))
    }


def _unfit(name: str, why: str) -> GgufSourceError:
    return GgufSourceError(
        f"the experts of {name!r} cannot be one tensor: {why}; is a file missing?",
        code="gguf_missing_tensor",
        tensor=name,
    )
