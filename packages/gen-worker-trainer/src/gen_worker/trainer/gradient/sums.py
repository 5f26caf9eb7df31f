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

    def add(self, loss: Loss, weight: float) -> None:
        """Take a micro-batch in; one without weight counts only for what is added up."""
        self.weight += weight
        for name, value in {"loss": loss.value, **loss.metrics}.items():
            number = value.detach() if hasattr(value, "detach") else value
            if name in _ADDED_UP:
                self._add(name, number)
            elif weight:
                self._add(name, number * weight)

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
