"""Orders and chances that follow from numbers, on any machine and with any version of anything."""

from __future__ import annotations

import sys
from array import array
from typing import Any

__all__ = ["permutation", "permuted", "seed_of", "uniforms"]


def permutation(count: int, *key: int) -> Any:
    """Return the numbers below `count` in an order of its own for each key, as an Arrow array.

    Args:
        count: How many.
        key: Numbers, such as seed, epoch and block.
    """
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.compute as pc  # type: ignore[import-not-found,import-untyped,unused-ignore]

    ranks = pa.Array.from_buffers(pa.uint64(), count, [None, pa.py_buffer(_ranks(count, key))])
    return pc.array_sort_indices(ranks)


def permuted(count: int, *key: int) -> list[int]:
    """Return the same as a list, without Arrow."""
    ranks = array("Q", _ranks(count, key))
    if sys.byteorder == "big":
        ranks.byteswap()
    return sorted(range(count), key=ranks.__getitem__)


def seed_of(*key: int | str) -> int:
    """Return a seed for a generator of the caller's, of 63 bits: another for each key."""
    return int.from_bytes(_digest(b"seed", key, 8), "little") >> 1


def uniforms(count: int, *key: int | str) -> list[float]:
    """Return numbers from 0 to below 1, others for each key.

    Args:
        count: How many.
        key: Such as seed, epoch and index of what they are for.
    """
    words = array("Q", _digest(b"uniforms", key, 8 * count))
    if sys.byteorder == "big":
        words.byteswap()
    return [(word >> 11) * 2.0**-53 for word in words]


def _ranks(count: int, key: tuple[int, ...]) -> bytes:
    return _digest(b"order", key, 8 * count)


def _digest(purpose: bytes, key: tuple[int | str, ...], length: int) -> bytes:
    from blake3 import blake3

    name = ",".join(str(one) for one in key).encode()
    return blake3(b"gen_worker.trainer.%s:%s" % (purpose, name)).digest(length=length)
