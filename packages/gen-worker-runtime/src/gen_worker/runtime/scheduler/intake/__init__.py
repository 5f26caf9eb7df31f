"""From what a caller asks for to a request that is kept."""

from __future__ import annotations

from gen_worker.runtime.scheduler.intake.intake import Intake, Pool

__all__ = ["Intake", "Pool"]
