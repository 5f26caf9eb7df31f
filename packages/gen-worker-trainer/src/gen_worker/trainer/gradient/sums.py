"""Loss and metrics of the parts of a batch, by weight; they stay on the device until asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.metrics import TOKENS, WEIGHT

if TYPE_CHECKING:
    from gen_worker.trainer.gradient.loss import Loss

__all__ = ["Sums"]


class Sums:
    """What the parts of one batch have in common."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.loss: Any = 0.0
        """Times the weight."""
        self._totals: dict[str, Any] = {}

    def add(self, loss: Loss, weight: float) -> None:
        """Take a part in; one without weight counts only for what is added up."""
        self.weight += weight
        if weight:
            self.loss = self.loss + loss.value.detach() * weight
        for name, value in loss.metrics.items():
            number = value.detach() if hasattr(value, "detach") else value
            self._totals[name] = self._totals.get(name, 0.0) + (
                number if name == TOKENS else number * weight if weight else 0.0
            )

    def metrics(self) -> dict[str, Any]:
        """Return the means, as `train_step` reports them."""
        whole = self.weight or 1.0
        means = {
            name: total if name == TOKENS else total / whole for name, total in self._totals.items()
        }
        return {**means, "loss": self.loss / whole, WEIGHT: self.weight}
