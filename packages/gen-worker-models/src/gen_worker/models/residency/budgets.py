"""How much of each place models may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.residency.gpu_memory import Gpus, index_of
from gen_worker.models.residency.host_memory import HostMemory, read_host_memory
from gen_worker.models.residency.values import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.settings import ModelSettings

__all__ = ["Budgets", "Limits"]

# Of the machine's RAM, for everything that is no model: an eighth, and 8 GiB where RAM is plenty.
_RAM_RESERVE_BYTES = 8 * GIB


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows, in GiB."""

    max_vram_gb: float | None = None
    """Of each GPU; None: all but the margin."""
    vram_margin_gb: float = 3.5
    max_ram_gb: float | None = None
    """None: what the machine and its control groups leave, less a reserve."""

    @classmethod
    def of(cls, settings: ModelSettings) -> Budgets:
        return cls(max_vram_gb=settings.max_vram_gb, vram_margin_gb=settings.vram_margin_gb)


class Limits:
    """Turns budgets and the machine's memory into bytes."""

    def __init__(
        self,
        budgets: Budgets,
        *,
        gpus: Gpus | None = None,
        host: Callable[[], HostMemory] = read_host_memory,
    ) -> None:
        self.budgets = budgets
        self._gpus = gpus or Gpus()
        self._host = host
        self._totals: dict[str, int] = {}

    def vram_bytes(self, place: str) -> int | None:
        """Return what models may take of a GPU; None when its size is not known."""
        if self.budgets.max_vram_gb is not None:
            return int(self.budgets.max_vram_gb * GIB)
        total = self._totals.get(place)
        if total is None:
            total = self._gpus.memory(index_of(place) or 0).total_bytes
            self._totals[place] = total
        if not total:
            return None
        return max(0, total - int(self.budgets.vram_margin_gb * GIB))

    def ram_bytes(self, held_bytes: int) -> int | None:
        """Return what models may take of RAM, given what they hold of it already."""
        if self.budgets.max_ram_gb is not None:
            return int(self.budgets.max_ram_gb * GIB)
        memory = self._host()
        if not memory.total_bytes:
            return None
        reserve = min(_RAM_RESERVE_BYTES, memory.total_bytes // 8)
        return max(0, held_bytes + memory.available_bytes - reserve)
