"""A straight line through what was seen, learned as it comes: coefficients that are never negative.

Least squares with forgetting, kept as its normal equations. They cannot blow up as the covariance
of the usual recursion does when the fields stop changing, and the coefficients are found by
coordinate descent, which keeps each of them at or above 0 (Franc, Hlavac and Navara, 2005). Every
observation counts alike, whatever the size of its fields: errors are taken to be relative.
"""

from __future__ import annotations

from operator import mul
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Estimate", "Learned"]

_FORGETTING = 0.995
"""What an observation counts for after the next one: about 200 matter."""
_ENOUGH = 5
"""Observations before anything is predicted."""
_ANCHOR = 1e-3
"""How firmly a coefficient stays where it is that no observation says anything about."""
_SWEEPS = 60
_CLOSE = 1e-6
_LARGEST = 1e18
_LEAST_SCALE = 1e-9
_LARGEST_RATIO = 1e9
"""Of what is seen to what was seen first."""
_MAX_FIELDS = 16


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimate knows, to be kept."""

    fields: tuple[str, ...]
    seen: int
    scales: tuple[float, ...]
    """What each field is divided by; 0 while it was never seen."""
    means: tuple[float, ...]
    """Of each field, divided: for calls that do not say."""
    scale: float
    """What results are divided by."""
    products: tuple[float, ...]
    """Of field and field, row by row; the last is the constant."""
    moments: tuple[float, ...]
    """Of field and result."""
    coefficients: tuple[float, ...]


class Estimate:
    """Learns `constant + sum of coefficient * field`."""

    def __init__(self, fields: Sequence[str]) -> None:
        """Begin with nothing.

        Args:
            fields: What the result may grow with; those after the sixteenth are left out.
        """
        self.fields = tuple(fields)[:_MAX_FIELDS]
        size = len(self.fields) + 1
        self.seen = 0
        self._scales = [0.0] * (size - 1)
        self._means = [0.0] * (size - 1)
        self._scale = 0.0
        self._products = [[0.0] * size for _ in range(size)]
        self._moments = [0.0] * size
        self._coefficients = [0.0] * size
        self._unsolved = 0

    @classmethod
    def of(cls, learned: Learned) -> Estimate:
        """Go on with what was kept; what is no longer sound is forgotten."""
        estimate = cls(learned.fields)
        size = len(estimate.fields) + 1
        vectors = (learned.scales, learned.means, learned.moments, learned.coefficients)
        numbers = [number for vector in vectors for number in vector]
        numbers += [*learned.products, learned.scale]
        shape = (*map(len, vectors), len(learned.products), len(learned.fields) + 1)
        if shape != (size - 1, size - 1, size, size, size * size, size) or learned.seen < 0:
            return estimate
        if not all(0 <= number <= _LARGEST for number in numbers):
            return estimate
        estimate.seen, estimate._scale = learned.seen, learned.scale
        estimate._scales, estimate._means = list(learned.scales), list(learned.means)
        rows = learned.products
        estimate._products = [list(rows[at : at + size]) for at in range(0, size * size, size)]
        estimate._moments = list(learned.moments)
        estimate._coefficients = list(learned.coefficients)
        return estimate

    def is_for(self, fields: Sequence[str]) -> bool:
        """Tell whether it would be made of these."""
        return self.fields == tuple(fields)[:_MAX_FIELDS]

    def learned(self) -> Learned:
        """Return what to keep."""
        self._solve()
        return Learned(
            fields=self.fields,
            seen=self.seen,
            scales=tuple(self._scales),
            means=tuple(self._means),
            scale=self._scale,
            products=tuple(number for row in self._products for number in row),
            moments=tuple(self._moments),
            coefficients=tuple(self._coefficients),
        )

    def observe(self, values: Mapping[str, float], result: float) -> None:
        """Learn from one call. What is no number, or negative, is left out.

        Args:
            values: By field; one that is missing counts as its mean.
            result: What it came to.
        """
        if not _is_sound(result) or not all(_is_sound(value) for value in values.values()):
            return
        self._scale = self._scale or _scale_of(result)
        for index, name in enumerate(self.fields):
            self._scales[index] = self._scales[index] or _scale_of(values.get(name, 0.0))
        row = self._row(values)
        for index in range(len(self.fields)):
            self._means[index] += (row[index] - self._means[index]) / min(self.seen + 1, 200)
        weight = 1.0 / sum(value * value for value in row)
        scaled = _ratio(result, self._scale)
        for index, value in enumerate(row):
            products, factor = self._products[index], weight * value
            for other, factor_of in enumerate(row):
                products[other] = products[other] * _FORGETTING + factor * factor_of
            self._moments[index] = self._moments[index] * _FORGETTING + factor * scaled
        self.seen += 1
        self._unsolved += 1

    def predict(self, values: Mapping[str, float]) -> float | None:
        """Return what a call will come to, at least 0; None while too little was seen."""
        if self.seen < _ENOUGH:
            return None
        if self._unsolved * 16 >= min(self.seen, 256):
            self._solve()
        row = self._row({name: value for name, value in values.items() if _is_sound(value)})
        pairs = zip(self._coefficients, row, strict=True)
        return min(sum(one * value for one, value in pairs) * self._scale, _LARGEST)

    def coefficients(self) -> dict[str, float]:
        """Return what each field adds per unit, and under `""` the constant."""
        self._solve()
        found = {
            name: coefficient * self._scale / scale if scale else 0.0
            for name, coefficient, scale in zip(
                self.fields, self._coefficients, self._scales, strict=False
            )
        }
        return {**found, "": self._coefficients[-1] * self._scale}

    def _row(self, values: Mapping[str, float]) -> list[float]:
        row = []
        for name, scale, mean in zip(self.fields, self._scales, self._means, strict=True):
            value = values.get(name)
            row.append(mean if value is None else _ratio(value, scale))
        row.append(1.0)
        return row

    def _solve(self) -> None:
        """Move the coefficients to where they fit best."""
        if not self._unsolved:
            return
        self._unsolved = 0
        anchors, found = list(self._coefficients), self._coefficients
        for _ in range(_SWEEPS):
            moved = 0.0
            for index, (products, moment) in enumerate(
                zip(self._products, self._moments, strict=True)
            ):
                own, before = products[index], found[index]
                rest = sum(map(mul, products, found)) - own * before
                value = (moment - rest + _ANCHOR * anchors[index]) / (own + _ANCHOR)
                found[index] = value = min(max(value, 0.0), _LARGEST)
                moved = max(moved, abs(value - before))
            if moved <= _CLOSE * max(found):
                break


def _is_sound(number: float) -> bool:
    return 0.0 <= number <= _LARGEST


def _scale_of(number: float) -> float:
    return number if number >= _LEAST_SCALE else 0.0


def _ratio(number: float, scale: float) -> float:
    return min(number / scale, _LARGEST_RATIO) if scale else 0.0
