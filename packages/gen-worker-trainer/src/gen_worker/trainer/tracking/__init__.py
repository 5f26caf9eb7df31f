"""Those who draw the curves of a run: told of its metrics, samples and checkpoints."""

from __future__ import annotations

from gen_worker.trainer.tracking.opening import trackers_of
from gen_worker.trainer.tracking.protocol import TrackedRun, Tracker
from gen_worker.trainer.tracking.telling import Tracking

__all__ = ["TrackedRun", "Tracker", "Tracking", "trackers_of"]
