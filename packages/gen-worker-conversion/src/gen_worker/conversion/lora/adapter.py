"""What an adapter is, whatever the format of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["Adapter", "LowRank"]


class LowRank(NamedTuple):
    """The update of one module: `alpha / rank * up @ down`."""

    down: LazyTensor
    """Shape `(rank, in)`; of a convolution `(rank, in, height, width)`."""
    up: LazyTensor
    """Shape `(out, rank)`; of a convolution `(out, rank, 1, 1)`."""
    alpha: float
    """As the file says it; where it says nothing, the rank."""
    magnitude: LazyTensor | None = None
    """Of a DoRA: the length of each row of the merged weight, shape `(out,)`."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Adapter(NamedTuple):
    """An adapter, with the names that diffusers and transformers have for its modules."""

    layers: Mapping[str, Mapping[str, LowRank]]
    """By component (`unet`, `transformer`, `text_encoder`, `text_encoder_2`; empty where a file of
    peft does not say) and module. A CLIP's modules begin with `text_model`."""
    unknown: tuple[str, ...] = ()
    """Names in the file that are no part of such an update; they are left out."""
