"""GPTQ (Frantar et al., arXiv:2210.17323): the error of a column is made up for by later ones.

Scales are those of rounding to nearest, of the weight as it is; so columns may be taken in any
order, and files look like those of plain rounding.

Legend: R rows and C columns of a weight, G groups of a row, B columns that are worked on together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.tensor import SLAB_BYTES
from gen_worker.conversion.quantize.fitted import Awaited, FittedScheme
from gen_worker.conversion.quantize.packed import PackedIntegers, pack_columns
from gen_worker.conversion.quantize.parts import finite_rows

if TYPE_CHECKING:
    from gen_worker.conversion.lazy.tensor import LazyTensor
    from gen_worker.conversion.quantize.fitted import LayerInputs

__all__ = ["Gptq", "fit_memory_bytes"]

_COLUMNS = 128
"""Worked on at once, before the rest of the row is updated; as in the paper."""
_ATTEMPTS = 4
"""With ten times the damping each, until the products can be factored."""


class _Plan(NamedTuple):
    """What all rows of a weight share."""

    order_C: Any
    """Columns in the order in which they are rounded."""
    factor_CC: Any
    """Upper triangle `U` of the damped inverse `U^T U` of the products, columns so ordered."""


class Gptq(PackedIntegers, FittedScheme):
    """Parts as of `PackedIntegers`; integers are chosen for the outputs of the layer."""

    needs_products = True
    changes_weights = True

    def __init__(
        self,
        bits: int,
        group_size: int,
        scale_dtype: str,
        *,
        symmetric: bool,
        damping: float,
        by_activation: bool,
    ) -> None:
        """Take the format and how it is fitted.

        Args:
            bits: See `PackedIntegers`, as of the next three.
            group_size: Likewise.
            scale_dtype: Likewise.
            symmetric: Likewise.
            damping: Added to the diagonal of the products, as a share of its mean.
            by_activation: Whether columns with the largest inputs are rounded first.
        """
        super().__init__(bits, group_size, scale_dtype, symmetric=symmetric)
        self.damping = damping
        self.by_activation = by_activation

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        parts = super().encode(tensor)
        packed = parts["packed"]
        parts["packed"] = Awaited(tensor, shape=packed.shape, dtype=packed.dtype, counts=True)
        return parts

    def fit(self, weight: LazyTensor, inputs: LayerInputs) -> dict[str, Any]:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        derived = {} if inputs.derived is None else inputs.derived
        settings = (self.damping, self.by_activation)
        plan = derived.get(settings) or derived.setdefault(settings, self._plan(inputs.products_CC))
        rows, columns = weight.shape
        step = max(4 * SLAB_BYTES // (4 * columns), 1)  # rows do not depend on each other
        made = []
        for start in range(0, rows, step):
            values_RC, _ = finite_rows(weight, start, min(start + step, rows))
            made.append(pack_columns(self._fitted(values_RC, plan), self.bits))
        return {"packed": torch.cat(made)}

    def _plan(self, products_CC: Any) -> _Plan:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        strengths_C = products_CC.diagonal()
        if self.by_activation:
            order_C = torch.argsort(strengths_C, descending=True, stable=True)
        else:
            order_C = torch.arange(len(strengths_C))
        ordered_CC = products_CC[order_C][:, order_C]
        diagonal = ordered_CC.diagonal()
        diagonal[diagonal == 0] = max(float(diagonal.mean()), 1e-30)  # never seen: plain rounding
        damping = self.damping * float(diagonal.mean())
        for attempt in range(_ATTEMPTS):
            diagonal += damping if attempt == 0 else 9 * damping * 10 ** (attempt - 1)
            factor_CC = _inverse_factor(ordered_CC)
            if factor_CC is not None:
                return _Plan(order_C, factor_CC)
        raise ConversionInputError(
            f"the inputs of a layer with {len(order_C)} features cannot be inverted, however they "
            "are damped: calibrate with more, or other, text",
            step="quantize",
        )

    def _fitted(self, values_RC: Any, plan: _Plan) -> Any:
        """Return integers `(R, C)`, as floats."""
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        grid = self._grid(values_RC)
        groups_C = plan.order_C // (values_RC.shape[1] // grid.scale_RG1.shape[1])
        scale_CR = grid.scale_RG1.squeeze(-1).T[groups_C]
        zero_CR = grid.zero_RG1.expand_as(grid.scale_RG1).squeeze(-1).T[groups_C]
        rest_CR = values_RC.T[plan.order_C]  # columns are worked on: each in one piece of memory
        integers_CR = torch.empty_like(rest_CR)
        columns = len(rest_CR)
        for start in range(0, columns, _COLUMNS):
            stop = min(start + _COLUMNS, columns)
            errors_BR = torch.empty_like(rest_CR[start:stop])
            factor_BB = plan.factor_CC[start:stop, start:stop]
            for at in range(start, stop):
                column_R, scale_R, zero_R = rest_CR[at], scale_CR[at], zero_CR[at]
                integer_R = (column_R / scale_R).add_(zero_R).clamp_(self.low, self.high).round_()
                integers_CR[at] = integer_R
                steps_B = factor_BB[at - start, at - start :]
                error_R = (column_R - (integer_R - zero_R) * scale_R) / steps_B[0]
                rest_CR[at:stop].addr_(steps_B, error_R, alpha=-1)
                errors_BR[at - start] = error_R
            rest_CR[stop:].addmm_(plan.factor_CC[start:stop, stop:].T, errors_BR, alpha=-1)
        found_RC = torch.empty_like(values_RC)
        found_RC[:, plan.order_C] = integers_CR.T
        return found_RC


def fit_memory_bytes(columns: int) -> int:
    """Return what a fit holds beside the products: copies of them, and slabs of rows."""
    return 4 * 4 * columns * columns + 24 * SLAB_BYTES


def _inverse_factor(products_CC: Any) -> Any:
    """Return `U`, upper, with `U^T U` the inverse; None where a pivot is not positive.

    With rows and columns reversed, a lower factor of the products becomes an upper one, whose
    inverse is `U`: one factorization, and the inverse itself is never formed.
    """
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    lower_CC, failed = torch.linalg.cholesky_ex(products_CC.flip(0, 1))
    if int(failed):
        return None
    upper_CC = lower_CC.flip(0, 1)
    del lower_CC
    identity_CC = torch.eye(len(upper_CC), dtype=upper_CC.dtype)
    return torch.linalg.solve_triangular(upper_CC, identity_CC, upper=True)
