"""Sets of weights files that stand for each other, and which of them to take.

The order is spec'd: probed dtype, precision in the name, total size; then the usual names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ModelResolutionError
from gen_worker.models.sources.precisions import OF_DTYPE, short_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["WeightSet", "best_set", "is_index", "precision_of", "weight_sets"]

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(.*)\.safetensors")
_INDEX = re.compile(r"(.+)\.safetensors\.index(\.[^./]+)?\.json")
_PRECISION = re.compile(
    r"(?:^|[._-])(bf16|bfloat16|fp16|float16|fp8(?:_?e[45]m[23](?:fn)?)?|fp32|float32)(?=$|[._-])",
    re.IGNORECASE,
)
_BY_NAME = {"bf16": 4, "fp16": 3, "fp8": 2, "": 1, "fp32": 0}
_PURE = {"BF16": 1000, "F16": 999, "F8_E4M3": 998, "F8_E5M2": 997, "F8": 996, "F32": 995}
_RANKS = {name: rank for rank, name in enumerate(_PURE)}
_DISALLOWED, _OTHER, _UNKNOWN, _MIXED, _ASKED = 2, 10, -1, 500, 2000
_ALLOWABLE = ("bf16", "fp16", "fp32")
"""What the settings decide on; smaller ones are always welcome."""
_COUNTERS = frozenset({"I64", "I32", "BOOL"})
"""Of position tables and masks, which every precision of a model has."""
_USUAL = ("model", "diffusion_pytorch_model", "adapter_model", "pytorch_lora_weights")


class WeightSet(NamedTuple):
    """Files that are one copy of the weights."""

    files: tuple[str, ...]
    listed_in: str = ""
    """The index of the files; empty for a single one."""

    @property
    def name(self) -> str:
        return self.listed_in or self.files[0]

    @property
    def probe(self) -> str:
        """The file whose header tells the dtype of all."""
        return self.files[0]


def is_index(path: str) -> bool:
    return _INDEX.fullmatch(path) is not None


def precision_of(path: str) -> str:
    """Return the precision that a file's name tells: `bf16`, `fp16`, `fp8`, `fp32` or nothing."""
    found = _PRECISION.search(path.rpartition("/")[2])
    token = found[1].lower() if found else ""
    return "fp8" if token.startswith("fp8") else short_precision(token)


def weight_sets(files: Iterable[str], indexes: Mapping[str, Any], ref: str) -> list[WeightSet]:
    """Return the sets in one folder: every single file, and every index with its shards.

    Args:
        files: Paths of one folder.
        indexes: Its index files, decoded; one that could not be read is None.
        ref: For messages.

    Raises:
        ModelResolutionError: An index names a shard that is not there.
    """
    listed = set(files)
    sets: list[WeightSet] = []
    taken: set[str] = set()
    for index in sorted(filter(is_index, listed)):
        shards = _shards_of(index, indexes.get(index), listed)
        missing = sorted(set(shards) - listed)
        if missing:
            raise ModelResolutionError(
                f"model {ref!r} is incomplete: {index!r} names {missing[0]!r}, which the "
                "repository does not have: choose another revision",
                provider="hf",
                phase="resolve",
            )
        if shards:
            sets.append(WeightSet(shards, index))
            taken.update(shards)
    singles = [path for path in listed if path.endswith(".safetensors")]
    alone = [path for path in singles if path not in taken and not _SHARD.fullmatch(path)]
    return sets + [WeightSet((path,)) for path in sorted(alone)]


def _shards_of(index: str, document: Any, listed: set[str]) -> tuple[str, ...]:
    """Return what an index lists; by its name when it cannot be read."""
    folder = index.rpartition("/")[0]
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if isinstance(weight_map, dict):
        names = {name for name in weight_map.values() if isinstance(name, str)}
        return tuple(sorted(f"{folder}/{name}" if folder else name for name in names))
    match = _INDEX.fullmatch(index)
    assert match is not None, "only indexes come here"
    stem, variant = match[1], match[2] or ""
    return tuple(
        sorted(
            path
            for path in listed
            if (shard := _SHARD.fullmatch(path)) and shard[1] == stem and shard[2] == variant
        )
    )


def best_set(
    sets: Sequence[WeightSet],
    sizes: Mapping[str, int],
    dtypes: Mapping[str, frozenset[str] | None],
    *,
    allowed: Sequence[str],
    asked: str = "",
) -> WeightSet | None:
    """Return the set to take; None when there are none.

    Args:
        sets: Of one folder.
        sizes: Of all files, in bytes.
        dtypes: Of the tensors in a file, as far as they are known.
        allowed: Precisions that are welcome, such as `bf16`.
        asked: The precision the author wants.
    """

    def order(one: WeightSet) -> tuple[Any, ...]:
        dtype = _dtype_score(dtypes.get(one.probe), allowed, asked)
        token = precision_of(one.name)
        by_name = len(_BY_NAME) if asked and token == asked else _BY_NAME.get(token, 1)
        size = sum(sizes.get(path, 0) for path in one.files)
        return (-dtype, -by_name, size, not _is_usual(one), one.name)

    return min(sets, key=order, default=None)


def _dtype_score(dtypes: frozenset[str] | None, allowed: Sequence[str], asked: str) -> int:
    if not dtypes:
        return _UNKNOWN
    told = dtypes - _COUNTERS or dtypes
    if len(told) > 1:
        ranks = [_RANKS[dtype] for dtype in told if dtype in _RANKS]
        return _MIXED - min(ranks) if ranks else _OTHER
    (dtype,) = told
    dtype = "F8_E4M3" if dtype == "F8_E4M3FN" else dtype
    precision = OF_DTYPE.get(dtype, "")
    if precision and precision == asked:
        return _ASKED
    if precision in _ALLOWABLE and precision not in allowed:
        return _DISALLOWED
    return _PURE.get(dtype, _OTHER)


def _is_usual(one: WeightSet) -> bool:
    name = one.name.rpartition("/")[2]
    return name.startswith(tuple(f"{usual}." for usual in _USUAL))
