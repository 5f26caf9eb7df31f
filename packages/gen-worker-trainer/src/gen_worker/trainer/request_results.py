"""What a run inside of a request tells whoever follows it, and what it stores for them."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import safe_text
from gen_worker.trainer.uploads.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.context import ProducerContext
    from gen_worker.types import Asset

__all__ = ["RequestResults"]

_EVERY_S = 0.1
"""At least between two reports: steps may be quicker than anybody can follow."""
_WAITING = 16
_DRAIN_S = 600.0
_TOLD = {
    "started": (),
    "checkpoint": ("step",),
    "completed": ("step",),
    "failed": ("step", "error"),
    "canceled": ("step", "error"),
    "phase": ("step", "phase"),
}
"""Of the runtime's events, what followers of a request are told; paths of a worker are nothing to
them."""


class _Sample(NamedTuple):
    local_path: str
    step: int


class RequestResults:
    """An `ArtifactUploader` whose place is a request. Nothing here fails a run."""

    def __init__(self, ctx: ProducerContext, max_steps: int) -> None:
        """Prepare.

        Args:
            ctx: Of the request.
            max_steps: For its progress.
        """
        self.samples: list[Asset] = []
        """Those that are stored."""
        self._ctx = ctx
        self._max_steps = max_steps
        self._unsaid: tuple[Mapping[str, float], int] | None = None
        self._said_at = -_EVERY_S
        self._lane: Lane[_Sample] = Lane("trainer-samples", self._store, capacity=_WAITING)

    def close(self) -> None:
        """Leave undone what is not stored yet. May be called again."""
        self._lane.close()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Pass on what the runtime has written down."""
        name = event["event"]
        facts = _TOLD.get(name)
        if facts is None:
            return
        self._say_rest()
        self._ctx.emit(f"trainer.{name}", {fact: event[fact] for fact in facts if fact in event})

    def upload_metrics(self, *, metrics: Mapping[str, float], step: int) -> Mapping[str, Any]:
        """Tell of the newest numbers; of those in between a tenth of a second none."""
        now = time.monotonic()
        self._unsaid = metrics, step
        if now - self._said_at >= _EVERY_S:
            self._said_at = now
            self._say_rest()
        return {"state": "told"}

    def upload_checkpoint(self, *, local_path: str, step: int) -> Mapping[str, Any]:
        """Leave it here: the final one is published when the function has returned it."""
        del local_path, step
        return {"state": "kept"}

    def upload_sample(self, *, local_path: str, step: int) -> Mapping[str, Any]:
        if self._lane.put(_Sample(os.fspath(local_path), step)):
            return {"state": "queued"}
        self._ctx.log(f"the sample of step {step} is not stored: too many wait", "warning")
        return {"state": "skipped"}

    def upload_terminal(
        self,
        *,
        status: str,
        step: int,
        final_checkpoint: str | None,
        error: str = "",
        drain_seconds: float | None = None,
    ) -> Mapping[str, Any]:
        """Have everything stored and told; whoever waits for the request learns the rest of it."""
        del step, final_checkpoint, error
        limit_s = _DRAIN_S if drain_seconds is None else drain_seconds
        if not self._lane.drain(time.monotonic() + limit_s):
            self._ctx.log("samples were not stored in time", "warning")
        self._say_rest()
        if status == "completed":
            self._ctx.progress(1.0, "trained")
        return {"state": "told"}

    # ----------------------------------------------------------------------------------------------

    def _say_rest(self) -> None:
        if self._unsaid is None:
            return
        (metrics, step), self._unsaid = self._unsaid, None
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._ctx.emit("trainer.metrics", {"step": step, "metrics": finite})
        self._progress(step)

    def _progress(self, step: int) -> None:
        self._ctx.progress(step / self._max_steps if self._max_steps else 0.0, "training")

    def _store(self, sample: _Sample) -> None:
        name = os.path.basename(sample.local_path)
        try:
            stored = self._ctx.save_file(f"samples/{name}", sample.local_path)
        except Exception as error:
            words = safe_text(str(error), type(error).__name__)
            self._ctx.log(f"the sample of step {sample.step} is not stored: {words}", "warning")
            return
        self.samples.append(stored)
        self._ctx.emit("trainer.sample", {"step": sample.step, "ref": stored.ref})
