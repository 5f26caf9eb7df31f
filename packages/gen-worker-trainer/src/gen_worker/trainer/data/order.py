"""Orders that follow from a seed and a count, on any machine and with any version of anything."""

from __future__ import annotations

from typing import Any

__all__ = ["permutation", "permuted"]


def permutation(count: int, *key: int) -> Any:
    """Return the numbers below `count` in an order of its own for each key, as an Arrow array.

    Args:
        count: How many.
        key: Numbers, such as seed, epoch and block.
    """
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.compute as pc  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from blake3 import blake3

    name = ",".join(str(one) for one in key).encode()
    ranks = blake3(b"gen_worker.trainer.order:" + name).digest(length=8 * count)
    array = pa.Array.from_buffers(pa.uint64(), count, [None, pa.py_buffer(ranks)])
    return pc.array_sort_indices(array)


def permuted(count: int, *key: int) -> list[int]:
    """Return the same as a list; for few."""
    return list(permutation(count, *key).to_pylist()) if count > 1 else list(range(count))
