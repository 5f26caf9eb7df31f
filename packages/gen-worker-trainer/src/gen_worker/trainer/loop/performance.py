"""How fast a run is, reported with its metrics."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.metrics import TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.loop.running import Run

__all__ = ["Performance"]


class Performance(Part):
    """Measures the steps since the last report; evaluation, checkpoints and samples are no part."""

    def __init__(self) -> None:
        self._step = 0
        self._samples = 0
        self._waited_s = 0.0
        self._busy_s = 0.0
        self._tokens: list[Any] = []
        self._device: Any = None

    def begin(self, run: Run) -> None:
        self._look(run)
        self._device = run.ctx.device if str(run.ctx.device).startswith("cuda") else None

    def after_step(self, run: Run) -> None:
        assert run.outcome is not None, "it is what has just ended"
        for result in run.outcome.results:
            tokens = result.metrics.get(TOKENS)
            if tokens is not None:
                self._tokens.append(tokens)

    def report(self, run: Run) -> Mapping[str, float]:
        steps = run.step - self._step
        waited_s = run.waited_s - self._waited_s
        spent_s = waited_s + run.busy_s - self._busy_s
        samples = run.samples - self._samples
        tokens = sum(float(one) for one in self._tokens)
        self._look(run)
        if steps <= 0 or spent_s <= 0:
            return {}
        metrics = {
            "perf/step_ms": 1000 * spent_s / steps,
            "perf/data_wait_ms": 1000 * waited_s / steps,
            "perf/samples_per_s": samples / spent_s,
        }
        if tokens:
            metrics["perf/tokens_per_s"] = tokens / spent_s
        return metrics | self._memory()

    def _look(self, run: Run) -> None:
        self._step, self._samples = run.step, run.samples
        self._waited_s, self._busy_s = run.waited_s, run.busy_s
        self._tokens = []

    def _memory(self) -> dict[str, float]:
        """Return the most that torch has had of the GPU; nothing if it does not use one."""
        torch = sys.modules.get("torch")
        if self._device is None or torch is None or not torch.cuda.is_initialized():
            return {}
        return {"perf/peak_vram_bytes": float(torch.cuda.max_memory_allocated(self._device))}
