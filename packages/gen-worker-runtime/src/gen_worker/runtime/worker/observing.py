"""How one job goes: times, memory, the pace of its stream, what its cost depended on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.spec import FunctionSpec

__all__ = ["Pace", "ScalingFactors", "factors_of"]

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
        return factors_of(value, self._paths)


def factors_of(value: Any, paths: Iterable[str]) -> dict[str, float]:
    """Return the numbers of a payload by field path; what is missing is left out.

    Args:
        value: The payload as plain values.
        paths: Dotted and indexed, as `Resources.runtime_scales_with` has them.
    """
    found = ((path, _number_at(value, _steps(path))) for path in paths)
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
