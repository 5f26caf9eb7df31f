"""Averages of weights over the last steps, which often are better than the weights themselves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["WeightAverages"]


class WeightAverages:
    """Exponential moving averages of the parameters that are trained, in at least fp32.

    The decay rises with the number of steps, as (1 + n) / (10 + n), so that the first averages are
    not those of an untrained model (`tf.train.ExponentialMovingAverage`).
    """

    def __init__(self, parameters: Mapping[str, Any], decay: float) -> None:
        """Begin with what the parameters are.

        Args:
            parameters: By name.
            decay: How much of the average each step leaves, in the end.
        """
        import torch  # type: ignore[import-not-found,unused-ignore]

        self._parameters = dict(parameters)
        self._decay = decay
        self.updates = 0
        self.averages = {
            name: one.detach().to(torch.promote_types(one.dtype, torch.float32), copy=True)
            for name, one in self._parameters.items()
        }

    def update(self) -> None:
        """Take the weights of a step in."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        self.updates += 1
        part = 1.0 - min(self._decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for name, average in self.averages.items():
                average.lerp_(self._parameters[name].detach().to(average.dtype), part)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the averages in place of the weights, and the very same weights again afterwards."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        with torch.no_grad():
            weights = {name: one.detach().clone() for name, one in self._parameters.items()}
            self._write(self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                self._write(weights)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Go on from what was kept.

        Raises:
            ValueError: It is of other parameters.
        """
        unlike = sorted(set(kept["averages"]) ^ set(self.averages))
        if unlike:
            raise ValueError(f"the averages are of other parameters: {', '.join(unlike[:10])}")
        self.updates = int(kept["updates"])
        for name, average in self.averages.items():
            average.copy_(kept["averages"][name])

    def _write(self, values: Mapping[str, Any]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
