"""Which elements of a tensor a seeded drop keeps: a function of each one's position alone.

So any rows can be made by themselves, in any order and by any number of threads, with the same
result. The numbers are those of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom
Number Generators", 2014), whose state is a counter.
"""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["drop_key", "kept_elements"]

_STEP = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_UNIFORM_BITS = 53


def drop_key(seed: int, model: int, name: str) -> int:
    """Return the start of the counter for one tensor of one model, 64 bits."""
    text = f"{seed}/{model}/{name}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def kept_elements(key: int, start: int, stop: int, density: float) -> Any:
    """Return a mask of some elements, counted in the order of the file.

    Args:
        key: Of `drop_key`.
        start: First element.
        stop: One after the last.
        density: Probability with which one is kept.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    state: Any = torch.arange(start + 1, stop + 1, dtype=torch.int64)
    state.mul_(_signed(_STEP)).add_(_signed(key))
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(multiplier))
    state.bitwise_xor_(_shifted(state, _SHIFTS[-1]))
    return _shifted(state, 64 - _UNIFORM_BITS) < round(density * 2**_UNIFORM_BITS)


def _signed(value: int) -> int:
    """Return the number of 64 bits with a sign that has the same bits."""
    return value - (1 << 64) if value >> 63 else value


def _shifted(state: Any, bits: int) -> Any:
    """Shift to the right as numbers without a sign are."""
    return state.bitwise_right_shift(bits).bitwise_and_((1 << (64 - bits)) - 1)
