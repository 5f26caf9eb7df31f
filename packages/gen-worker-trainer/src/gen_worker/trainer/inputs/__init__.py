"""What a job names, on this machine: its base model, its data, the checkpoint it goes on from."""

from __future__ import annotations

from gen_worker.trainer.inputs.materialize import Materialized, materialize

__all__ = ["Materialized", "materialize"]
