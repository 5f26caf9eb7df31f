"""Several processes that train one model."""

from __future__ import annotations

from gen_worker.trainer.distributed.world import ALONE, World

__all__ = ["ALONE", "World"]
