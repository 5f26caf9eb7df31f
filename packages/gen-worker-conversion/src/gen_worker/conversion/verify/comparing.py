"""Tensors of an output beside those of the source, slab by slab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.tensor import SLAB_BYTES
from gen_worker.conversion.verify.values import Difference, TensorReport
from gen_worker.conversion.writer.nonfinite import NonFinite, counted_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["Sums", "compare", "name_problems"]


class Sums:
    """What a difference is made from, added up in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = self.total = self.signal = self.noise = 0.0

    def add(self, made: Any, expected: Any) -> None:
        """Add values and what they should be: torch tensors of one shape."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        is_exact = not (made.is_floating_point() and expected.is_floating_point())
        wide = torch.float64 if is_exact or expected.dtype == torch.float64 else torch.float32
        made, expected = made.to(wide), expected.to(wide)
        finite = torch.isfinite(made) & torch.isfinite(expected)
        if not bool(finite.all()):
            made, expected = made[finite], expected[finite]
        if made.numel() == 0:
            return
        error = (made - expected).abs_()
        self.count += made.numel()
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.sum(dtype=torch.float64))
        self.noise += float(error.square_().sum(dtype=torch.float64))
        self.signal += float(expected.square().sum(dtype=torch.float64))

    def difference(self) -> Difference:
        return Difference.of(self.count, self.largest, self.total, self.signal, self.noise)


def name_problems(component: str, made: Checkpoint, expected: Checkpoint) -> list[str]:
    """Return which tensors are missing, not expected, or of another shape."""
    where = f"{component}/" if component else ""
    missing = [name for name in expected if name not in made]
    extra = [name for name in made if name not in expected]
    problems = [f"tensor {where}{name} is missing" for name in missing]
    problems += [f"tensor {where}{name} is not one of the source" for name in extra]
    problems += [
        f"tensor {where}{name} is {list(made[name].shape)}, the source has {list(one.shape)}"
        for name, one in expected.items()
        if name in made and made[name].shape != one.shape
    ]
    return problems


def compare(
    component: str, made: Checkpoint, expected: Checkpoint, token: CancelToken | None
) -> Iterator[TensorReport]:
    """Yield how far each tensor is from the source's; one slab of both is in memory.

    Raises:
        CanceledError: The token was canceled.
    """
    for name, one in expected.items():
        yield _compared(component, name, made[name], one, token)


def _compared(
    component: str,
    name: str,
    made: LazyTensor,
    expected: LazyTensor,
    token: CancelToken | None,
) -> TensorReport:
    sums, found, known = Sums(), NonFinite(0, 0), NonFinite(0, 0)
    for left, right, start, stop in _slabs(made, expected):
        if token is not None:
            token.raise_if_canceled()
        ours, bad = counted_rows(left, start, stop)
        theirs, bad_before = counted_rows(right, start, stop)
        sums.add(ours, theirs)
        found, known = found + bad, known + bad_before
    difference = sums.difference()
    return TensorReport(
        component=component,
        name=name,
        dtype=made.dtype,
        source_dtype=expected.dtype,
        nan=found.nan,
        inf=found.inf,
        source_nan=known.nan,
        source_inf=known.inf,
        max_abs=difference.max_abs,
        mean_abs=difference.mean_abs,
        snr_db=difference.snr_db,
    )


def _slabs(
    made: LazyTensor, expected: LazyTensor
) -> Iterator[tuple[LazyTensor, LazyTensor, int, int]]:
    if made.is_elementwise and expected.is_elementwise:
        made, expected = made.flat(), expected.flat()
    if expected.elements == 0:
        return
    count = expected.row_count
    cost = made.row_cost_bytes + expected.row_cost_bytes + 16 * expected.row_elements
    is_whole = made.is_whole or expected.is_whole
    step = count if is_whole else max(SLAB_BYTES // max(cost, 1), 1)
    for start in range(0, count, step):
        yield made, expected, start, min(start + step, count)
