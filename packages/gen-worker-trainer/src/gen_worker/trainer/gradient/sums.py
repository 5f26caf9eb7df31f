"""Losses and metrics of a step, by weight; left on the device until they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_worker.trainer.gradient.loss import Loss

__all__ = ["Sums"]

_ADDED_UP = ("tokens",)


class Sums:
    """What the micro-batches of one step have in common."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._totals: dict[str, Any] = {}

    def add(self, loss: Loss) -> None:
        weight = float(loss.weight)
        self.weight += weight
        self._add("loss", loss.value.detach() * weight)
        for name, value in loss.metrics.items():
            number = value.detach() if hasattr(value, "detach") else value
            self._add(name, number if name in _ADDED_UP else number * weight)

    def means(self) -> dict[str, float]:
        """Return the means, for which the device is waited for."""
        return {
            name: float(total) / (1.0 if name in _ADDED_UP else self.weight or 1.0)
            for name, total in self._totals.items()
        }

    def clear(self) -> None:
        self.weight = 0.0
        self._totals = {}

    def _add(self, name: str, number: Any) -> None:
        self._totals[name] = self._totals[name] + number if name in self._totals else number
