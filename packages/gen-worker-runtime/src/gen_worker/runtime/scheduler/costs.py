"""What a call will cost: the author's `Resources`, and what was learned from calls before it.

    vram = vram_base + vram_size_multiplier * size + what the fields of `vram_scales_with` add
    time = what the fields of `runtime_scales_with` add

by function and class of GPU. What was declared is never taken back: what is learned only adds to
it. Before enough calls were seen, what was declared is all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.runtime.scheduler.decisions import Prediction
from gen_worker.runtime.scheduler.estimates import Estimate, Learned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.resources import Resources

__all__ = ["Costs", "GpuClass", "LearnedCost", "ModelSize"]

_GIB = 1024**3
_MAX_ESTIMATES = 10_000


class ModelSize(NamedTuple):
    """What `vram_must_fit` chooses from, in bytes; 0 is not known."""

    full_model: int = 0
    largest_component: int = 0


_UNKNOWN_SIZE = ModelSize()


class GpuClass(NamedTuple):
    """Of the GPUs a pool has, or could have."""

    name: str
    vram_bytes: int


class LearnedCost(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of a function on a class of GPU, to be kept."""

    function: str
    gpu_class: str
    vram: Learned
    run: Learned


class _Pair(NamedTuple):
    vram: Estimate
    """Bytes beyond what was declared."""
    run: Estimate
    """Seconds."""


class Costs:
    """Predicts and learns. Functions are whatever names them across releases."""

    def __init__(self, learned: Iterable[LearnedCost] = ()) -> None:
        """Go on with what was learned before.

        Args:
            learned: As `learned` gave it.
        """
        self._pairs = {
            (row.function, row.gpu_class): _Pair(Estimate.of(row.vram), Estimate.of(row.run))
            for row in learned
        }

    def learned(self) -> list[LearnedCost]:
        """Return what to keep."""
        return [
            LearnedCost(
                function=function,
                gpu_class=gpu_class,
                vram=pair.vram.learned(),
                run=pair.run.learned(),
            )
            for (function, gpu_class), pair in self._pairs.items()
        ]

    def predict(
        self,
        function: str,
        gpu_class: str,
        resources: Resources,
        *,
        size: ModelSize = _UNKNOWN_SIZE,
        factors: Mapping[str, float] | None = None,
    ) -> Prediction:
        """Return what a call will cost on a class of GPU.

        Args:
            function: Its name.
            gpu_class: Empty without a GPU.
            resources: As its author declared them.
            size: Of its models.
            factors: The numbers of its payload by field path (`worker.observing.factors_of`);
                what is missing counts as its mean.
        """
        vram_bytes, run_s = float(_declared_bytes(resources, size)), None
        pair = self._pairs.get((function, gpu_class))
        if pair is not None:
            if pair.vram.is_for(resources.vram_scales_with):
                vram_bytes += pair.vram.predict(factors or {}) or 0.0
            if pair.run.is_for(resources.runtime_scales_with):
                run_s = pair.run.predict(factors or {})
        return Prediction(round(vram_bytes), run_s)

    def observe(
        self,
        function: str,
        gpu_class: str,
        resources: Resources,
        *,
        run_s: float | None = None,
        peak_vram_bytes: int = 0,
        size: ModelSize = _UNKNOWN_SIZE,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        """Learn from a call that succeeded.

        Args:
            function: Its name.
            gpu_class: Empty without a GPU.
            resources: As its author declared them.
            run_s: Without loading; None when that is not known, as of a call that had to load.
            peak_vram_bytes: 0 when it was not measured, or others used the GPU at the same time.
            size: Of its models.
            factors: The numbers of its payload by field path.
        """
        key = (function, gpu_class)
        pair = self._pairs.pop(key, None)
        vram_fields, run_fields = resources.vram_scales_with, resources.runtime_scales_with
        if pair is None or not (pair.vram.is_for(vram_fields) and pair.run.is_for(run_fields)):
            pair = _Pair(Estimate(vram_fields), Estimate(run_fields))
        self._pairs[key] = pair
        if len(self._pairs) > _MAX_ESTIMATES:
            del self._pairs[next(iter(self._pairs))]
        if peak_vram_bytes > 0:
            more = max(0, peak_vram_bytes - _declared_bytes(resources, size))
            pair.vram.observe(factors or {}, float(more))
        if run_s is not None:
            pair.run.observe(factors or {}, run_s)

    def refusal(
        self,
        function: str,
        resources: Resources,
        classes: Iterable[GpuClass],
        *,
        size: ModelSize = _UNKNOWN_SIZE,
        factors: Mapping[str, float] | None = None,
    ) -> str:
        """Return why a call is refused before any worker sees it; empty when it is not.

        Args:
            function: Its name.
            resources: As its author declared them.
            classes: All that the pool has or could have; without any nothing is refused.
            size: Of its models.
            factors: The numbers of its payload by field path.
        """
        if not resources.needs_gpu:
            return ""
        short: list[tuple[int, int, str]] = []
        for name, vram_bytes in classes:
            needed = self.predict(function, name, resources, size=size, factors=factors).vram_bytes
            if needed <= vram_bytes:
                return ""
            short.append((vram_bytes, needed, name))
        if not short:
            return ""
        vram_bytes, needed, name = max(short)
        return (
            f"{function!r} is expected to need {needed / _GIB:.1f} GiB of VRAM for this input,"
            f" and the largest GPU, {name}, has {vram_bytes / _GIB:.1f}: ask for less"
        )


def _declared_bytes(resources: Resources, size: ModelSize) -> int:
    fit = resources.vram_must_fit
    size_bytes = getattr(size, fit) if fit is not None else size.full_model
    return resources.vram_base + round(resources.vram_size_multiplier * size_bytes)
