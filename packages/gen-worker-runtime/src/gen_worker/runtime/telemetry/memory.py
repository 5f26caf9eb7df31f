"""How much memory a request took at its peak, rather than this process ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryGauge", "MemoryUse", "resident_bytes"]

_STALE_S = 0.05


class MemoryUse:
    """What is known of one request's memory while it runs."""

    __slots__ = ("device", "high_water_bytes", "ram_bytes", "vram_bytes")

    def __init__(self, high_water_bytes: int) -> None:
        self.high_water_bytes = high_water_bytes
        """The most that the process had had in RAM when the request came."""
        self.ram_bytes = 0
        self.vram_bytes = 0
        self.device = ""
        """The GPU it runs on, once it does."""


class MemoryGauge:
    """Reads this process's RAM at most every 50 ms, and GPUs as torch accounts for them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = -_STALE_S
        self._resident = 0
        self._high_water = 0
        self._holders: dict[str, MemoryUse] = {}
        """Whose peak each GPU's is at the moment."""
        self._lock = threading.Lock()

    def begin(self) -> MemoryUse:
        """Begin to note the peak of a request."""
        if self._clock() - self._read_at >= _STALE_S:
            self._read()
        return MemoryUse(self._high_water)

    def note(self, use: MemoryUse) -> None:
        """Look at what there is now. Called now and then while the request runs."""
        if self._clock() - self._read_at >= _STALE_S:
            self._read()
        use.ram_bytes = max(use.ram_bytes, self._resident)

    def occupy(self, use: MemoryUse, device: str) -> None:
        """Note that a request has a GPU now, which runs one at a time. Any thread."""
        cuda = _cuda()
        if cuda is None or use.device == device or not device.startswith("cuda"):
            return
        with self._lock:
            before = self._holders.get(device)
            if before is not None:  # it has left the device, and nobody has asked for its peak yet
                before.vram_bytes = max(before.vram_bytes, cuda.max_memory_allocated(device))
            cuda.reset_peak_memory_stats(device)
            self._holders[device] = use
        use.device = device

    def end(self, use: MemoryUse) -> tuple[int, int]:
        """Return the peaks of a request in bytes, of RAM and of its GPU; 0 is not known."""
        self.note(use)
        if self._high_water > use.high_water_bytes:  # it rose meanwhile: that was the peak
            use.ram_bytes = self._high_water
        if use.device:
            self._leave(use)
        return use.ram_bytes, use.vram_bytes

    def _leave(self, use: MemoryUse) -> None:
        with self._lock:
            if self._holders.get(use.device) is use:
                del self._holders[use.device]
                cuda = _cuda()
                if cuda is not None:
                    peak = int(cuda.max_memory_allocated(use.device))
                    use.vram_bytes = max(use.vram_bytes, peak)

    def _read(self) -> None:
        self._read_at = self._clock()
        self._resident, self._high_water = resident_bytes(), _high_water_bytes()


def _cuda() -> Any:
    """Return torch's view of its GPUs; None unless somebody uses them."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def resident_bytes() -> int:
    """Return what this process has in RAM; 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            pages = int(file.read(128).split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _high_water_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
