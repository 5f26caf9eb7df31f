"""What a trainer says of one batch: how wrong the model is, and how much that counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Loss", "loss_of"]


class Loss(NamedTuple):
    """A mean over items, with their number.

    The batches of a step are joined by their weights, so that the gradient is that of one great
    batch, however it was split: for a loss per token, the weight is the number of tokens.
    """

    value: Any
    """A tensor with one number: the mean over the items."""
    weight: float = 1.0
    """Their number; a tensor of one number is read, for which the GPU is waited for."""
    metrics: Mapping[str, float] = {}
    """Further numbers of the batch, averaged by weight; `tokens` is added up."""


def loss_of(given: Any) -> Loss:
    """Return what `compute_loss` returned as a loss.

    Raises:
        TypeError: It is no loss, no tensor, and no tensor with metrics.
        ValueError: It is more than one number.
    """
    loss = given if isinstance(given, Loss) else _without_weight(given)
    if not hasattr(loss.value, "backward"):
        raise TypeError(
            f"compute_loss returned {type(loss.value).__name__}, and has to return a Loss, a "
            "tensor of one number, or such a tensor with a mapping of metrics"
        )
    if loss.value.numel() != 1:
        raise ValueError(
            f"compute_loss returned a tensor of shape {list(loss.value.shape)}: return the mean "
            "over its items, and their number as the weight"
        )
    return loss


def _without_weight(given: Any) -> Loss:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return Loss(given[0], metrics=given[1])
    return Loss(given)
