"""What blocks of several types have in common. B blocks of V values each."""

from __future__ import annotations

from typing import Any

__all__ = ["first_peak", "half_bytes"]


def half_bytes(value_B: Any) -> Any:
    """Return float16 as its two bytes."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return value_B.half()[:, None].view(torch.uint8)


def first_peak(x_BV: Any) -> Any:
    """Return each block's first value of the largest magnitude."""
    import torch

    high_B, low_B = x_BV.amax(1), x_BV.amin(1)
    depth_B = -low_B
    is_tied_B = high_B == depth_B
    if bool(is_tied_B.any()):  # both are there; the first one counts
        is_first = x_BV.abs() == torch.maximum(high_B, depth_B)[:, None]
        return x_BV.gather(1, is_first.to(torch.uint8).argmax(1)[:, None])[:, 0]
    return torch.where(high_B > depth_B, high_B, low_B)
