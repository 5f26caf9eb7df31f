"""Moves objects between RAM and GPUs. The executor decides nothing here and is told everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.models.low_vram.hooks import stamp_of
from gen_worker.models.low_vram.ladder import OFFLOADED
from gen_worker.models.residency.gpu_memory import Gpus, index_of
from gen_worker.models.residency.weights import (
    device_bytes,
    key_of,
    modules_of,
    parts_of,
    weight_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.models.residency.values import Part

__all__ = ["Movers", "TorchMovers"]


class Movers(Protocol):
    """What the executor needs done. Called with the place's mutex held, in the caller's thread."""

    def measure(self, value: Any) -> tuple[Part, ...]:
        """Return the parts of an object; empty when it has none that could be measured."""
        ...

    def can_move(self, value: Any) -> bool:
        """Tell whether an object has another place to go to; if not it is given up instead."""
        ...

    def to_gpu(self, value: Any, place: str) -> None:
        """Move an object that is in RAM to a GPU. May raise anything."""
        ...

    def to_ram(self, value: Any, keep: Collection[str]) -> None:
        """Move an object to RAM, all but the parts of these keys. May raise anything."""
        ...

    def is_offloaded(self, value: Any) -> bool:
        """Tell whether hooks of its own move the object: then it gets neither of the moves."""
        ...

    def is_at(self, value: Any, place: str) -> bool:
        """Tell whether an object that was brought to a GPU is there still."""
        ...

    def held_bytes(self, value: Any, place: str) -> int:
        """Return what an offloaded object keeps of a GPU between calls."""
        ...

    def allocated_bytes(self, place: str) -> int:
        """Return what tensors take of a GPU; 0 when unknown."""
        ...

    def flush(self) -> None:
        """Give memory that nothing uses back. Must not raise."""
        ...


class TorchMovers:
    """Moves whatever has torch modules in it, or a method `to`."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        self._gpus = gpus or Gpus()

    def measure(self, value: Any) -> tuple[Part, ...]:
        return parts_of(value)

    def can_move(self, value: Any) -> bool:
        return callable(getattr(value, "to", None)) or bool(modules_of(value))

    def to_gpu(self, value: Any, place: str) -> None:
        _move(value, place)

    def to_ram(self, value: Any, keep: Collection[str]) -> None:
        modules = modules_of(value).values()
        if not any(key_of(module) in keep for module in modules):
            _move(value, "cpu")
            return
        for module in modules:
            if key_of(module) not in keep:
                module.to("cpu")

    def is_offloaded(self, value: Any) -> bool:
        return stamp_of(value) in OFFLOADED

    def is_at(self, value: Any, place: str) -> bool:
        index = index_of(place)
        return index is None or not weight_bytes(value) or device_bytes(value, index) > 0

    def held_bytes(self, value: Any, place: str) -> int:
        index = index_of(place)
        return 0 if index is None else device_bytes(value, index)

    def allocated_bytes(self, place: str) -> int:
        index = index_of(place)
        return 0 if index is None else self._gpus.allocated_bytes(index)

    def flush(self) -> None:
        self._gpus.flush()


def _move(value: Any, place: str) -> None:
    if callable(getattr(value, "to", None)):
        value.to(place)
        return
    for module in modules_of(value).values():
        module.to(place)
