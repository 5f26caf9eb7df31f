"""Weights that are quantized by what goes into their layers: recipes that wait for calibration.

Legend: T tokens, C columns of a weight, which are the features that go into its layer.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import ConversionImplementationError
from gen_worker.conversion.quantize.parts import Scheme
from gen_worker.conversion.writer.nonfinite import CountedTensor, NonFinite, count_nonfinite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["Awaited", "FittedScheme", "LayerInputs"]

_NONE = NonFinite(0, 0)


class LayerInputs(NamedTuple):
    """What calibration has seen go into a layer, or into several that are given the same."""

    largest: float
    """Magnitude."""
    products_CC: Any = None
    """Sum of `x^T x` over all tokens, float32; None where nobody asked for it."""
    derived: dict[Any, Any] | None = None
    """What a scheme has made of the products, for the next layer that is given the same."""


class FittedScheme(Scheme):
    """A scheme some of whose parts are made of the inputs of a layer; `encode` awaits them."""

    needs_products = False
    """Whether `fit` takes `products_CC`."""
    changes_weights = False
    """Whether later layers are to be calibrated with what `fit` made of this one."""

    @abstractmethod
    def fit(self, weight: LazyTensor, inputs: LayerInputs) -> dict[str, Any]:
        """Return the awaited parts, as torch tensors; blocks."""


class Awaited(CountedTensor):
    """A part that is not there before calibration has made it."""

    def __init__(
        self, source: LazyTensor, *, shape: Sequence[int], dtype: str, counts: bool = False
    ) -> None:
        """Describe it.

        Args:
            source: The weight.
            shape: Of the part.
            dtype: Of the part.
            counts: Whether it tells of the source's numbers that are not finite; then it has as
                many rows.
        """
        super().__init__(shape, dtype)
        self.source = source
        self.counts = counts
        self._made: LazyTensor | None = None

    def settle(self, made: Checkpoint, name: str) -> None:
        """Take what calibration has made."""
        found = made[name]
        assert (found.shape, found.dtype) == (self.shape, self.dtype), name
        self._made = found

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.source,) if self._made is None else (self._made, self.source)

    @property
    def row_cost_bytes(self) -> int:
        """Of the row itself, and of the source's where that is counted."""
        return self.row_bytes + (self.source.row_cost_bytes if self.counts else 0)

    def rows(self, start: int, stop: int) -> Any:
        if self._made is None:
            raise ConversionImplementationError(
                f"{self!r} is made by calibration: run calibrate_checkpoint before it is written",
                step="quantize",
            )
        return self._made.rows(start, stop)

    def counted_rows(self, start: int, stop: int) -> tuple[Any, NonFinite]:
        made = self.rows(start, stop)
        if not self.counts:
            return made, _NONE
        return made, count_nonfinite(self.source.rows(start, stop), self.source.dtype)
