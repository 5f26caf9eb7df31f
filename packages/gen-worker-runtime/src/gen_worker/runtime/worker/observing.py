"""How one job goes: times, memory, the pace of its stream, what its cost depended on."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.spec import FunctionSpec

__all__ = ["MemoryGauge", "Pace", "ScalingFactors"]

_STALE_S = 0.05
_MAX_GAPS = 1024


class Pace:
    """When a stream's items came. They come in batches; a batch is spread over its gap."""

    __slots__ = ("_began", "_gaps", "_last", "first_s")

    def __init__(self, began: float) -> None:
        """Begin.

        Args:
            began: When the job was received, in seconds of `time.perf_counter`.
        """
        self._began = began
        self._gaps: list[tuple[float, int]] = []
        self._last = began
        self.first_s: float | None = None
        """From the beginning to the first item."""

    def note(self, count: int, now: float) -> None:
        """Note a batch of items."""
        if self.first_s is None:
            self.first_s = now - self._began
            count -= 1
        if count:
            self._gaps.append(((now - self._last) / count, count))
            if len(self._gaps) > _MAX_GAPS:
                self._gaps = self._gaps[::2]
        self._last = now

    @property
    def median_s(self) -> float:
        """Median time between two items; 0 when there were no two."""
        ordered = sorted(self._gaps)
        half = sum(count for _, count in ordered) / 2
        seen = 0
        for gap_s, count in ordered:
            seen += count
            if seen >= half:
                return gap_s
        return 0.0


class MemoryGauge:
    """How much memory this process takes, and how much of its GPUs its tensors took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = -_STALE_S
        self._resident = 0

    def resident_bytes(self) -> int:
        """Return what the process has in RAM, as of the last 50 ms; 0 where that is not known."""
        now = self._clock()
        if now - self._read_at >= _STALE_S:
            self._read_at, self._resident = now, self._read()
        return self._resident

    def _read(self) -> int:
        try:
            with open("/proc/self/statm", "rb", buffering=0) as file:
                pages = int(file.read(128).split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def take_vram_peak(self, device: str) -> int:
        """Return what tensors took of a GPU at most since this was last asked; 0 without torch.

        A device runs one call at a time, so asked after each call this is the call's own peak.
        """
        torch = sys.modules.get("torch")
        if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
            return 0
        peak = int(torch.cuda.max_memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        return peak


class ScalingFactors:
    """What the cost of a function's calls depends on, evaluated for each payload."""

    def __init__(self, spec: FunctionSpec, payload_type: Any) -> None:
        resources = spec.resources
        paths = (
            *getattr(resources, "vram_scales_with", ()),
            *getattr(resources, "runtime_scales_with", ()),
        )
        self._paths = tuple(dict.fromkeys(paths))
        self._decode = msgspec.msgpack.Decoder(payload_type).decode if paths else None

    def __bool__(self) -> bool:
        return bool(self._paths)

    def of(self, payload: bytes) -> dict[str, float]:
        """Return the numbers of a payload; its defaults count, what is missing is left out."""
        if self._decode is None:
            return {}
        try:
            value = msgspec.to_builtins(self._decode(payload))
        except (msgspec.MsgspecError, TypeError, RecursionError):
            return {}
        found = ((path, _number_at(value, _steps(path))) for path in self._paths)
        return {path: number for path, number in found if number is not None}


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("[", ".").replace("]", "").split(".") if step]


def _number_at(value: Any, steps: Sequence[str]) -> float | None:
    """Return the number at a path: a value, or how many there are of what is listed there."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.lstrip("-").isdigit():
            index = int(step)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return float(len(value)) if isinstance(value, (str, list, dict)) else None
