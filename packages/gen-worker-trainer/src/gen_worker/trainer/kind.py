"""The endpoint kind of this package, as its entry point names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.context import TrainingContext
from gen_worker.context.jobs import JobKind

if TYPE_CHECKING:
    from gen_worker.spec import Kind

__all__ = ["TRAINING"]

TRAINING: Kind = JobKind("training", TrainingContext)
"""Functions that train weights, published as one revision of the destination."""
