"""What goes into the layers of a block, watched while it runs.

Legend: T tokens, C features that go into a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.quantize.fitted import LayerInputs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Watch"]


class Watch:
    """Hooks on layers; layers that are given the same tensor share what is summed up of it."""

    def __init__(self, layers: Mapping[str, Any], *, takes_products: bool) -> None:
        """Watch layers until `close`.

        Args:
            layers: Linear ones, by name.
            takes_products: Whether `x^T x` is summed up.
        """
        self._takes_products = takes_products
        self._leaders: dict[str, str] = {}
        self._seen: dict[str, Any] = {}
        self._largest: dict[str, float] = {}
        self._products_CC: dict[str, Any] = {}
        self._derived: dict[str, dict[Any, Any]] = {}
        self._handles = [
            layer.register_forward_pre_hook(lambda _, args, name=name: self._look(name, args[0]))
            for name, layer in layers.items()
        ]

    def end_window(self) -> None:
        """Forget the tensors of a window."""
        self._seen.clear()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def inputs_of(self, name: str) -> LayerInputs | None:
        """Return what a layer was given; None where it was never called."""
        leader = self._leaders.get(name)
        if leader is None:
            return None
        derived = self._derived.setdefault(leader, {})
        return LayerInputs(self._largest[leader], self._products_CC.get(leader), derived)

    def _look(self, name: str, value: Any) -> None:
        if name not in self._leaders:
            same = (other for other, seen in self._seen.items() if seen is value)
            self._leaders[name] = next(same, name)
        if self._leaders[name] != name:
            return
        self._seen[name] = value
        rows_TC = value.detach().flatten(0, -2).float()
        self._largest[name] = max(self._largest.get(name, 0.0), float(rows_TC.abs().amax()))
        if self._takes_products:
            total_CC = self._products_CC.get(name)
            if total_CC is None:
                self._products_CC[name] = rows_TC.T @ rows_TC
            else:
                total_CC.addmm_(rows_TC.T, rows_TC)
