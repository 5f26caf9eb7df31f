"""Adapters of another rank: the best product of that rank, or of so much of the energy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lora.factoring import RankChoice, Recent, factored, truncated

if TYPE_CHECKING:
    from gen_worker.conversion.lora.adapter import Adapter, LowRank
    from gen_worker.conversion.lora.factoring import Decomposed

__all__ = ["resize_adapter"]


def resize_adapter(
    adapter: Adapter, *, rank: int | None = None, energy: float | None = None
) -> Adapter:
    """Return an adapter whose modules have a smaller rank; `alpha / rank` stays what it is.

    The product of the new sides is the closest of its rank to that of the old ones. One module is
    in memory at a time; a choice by energy reads each once more, when this is called.

    Args:
        adapter: As `open_adapter` gives it. Magnitudes of a DoRA stay as they are.
        rank: At most so many; a module of a smaller rank keeps its own.
        energy: As few as hold this share of the sum of squared singular values.

    Raises:
        ConversionInputError: Neither is given, or one is out of its range.
    """
    choice, recent = RankChoice(rank, energy), Recent()
    layers = {
        component: {
            module: _resized(f"{component}/{module}", layer, choice, recent)
            for module, layer in modules.items()
        }
        for component, modules in adapter.layers.items()
    }
    return adapter._replace(layers=layers)


def _resized(name: str, layer: LowRank, choice: RankChoice, recent: Recent) -> LowRank:
    largest = min(layer.rank, layer.up.row_count, layer.down.row_elements)
    rank = choice.of(largest, lambda: _decomposed(layer, largest)[1])
    made = factored(
        name,
        rank,
        partial(_decomposed, layer, rank),
        recent,
        down_shape=layer.down.shape[1:],
        rows=layer.up.row_count,
        dtype=layer.down.dtype,
        of=(layer.down, layer.up),
        scale=layer.scale,
    )
    return made._replace(magnitude=layer.magnitude)


def _decomposed(layer: LowRank, rank: int) -> Decomposed:
    """Decompose `up @ down` without making the product: its core has the size of the rank."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    up: Any = layer.up.tensor().float().reshape(layer.up.row_count, -1)
    down: Any = layer.down.tensor().float().reshape(layer.rank, -1)
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    u, values, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return truncated(left @ u, values, vh @ right.T, rank)
