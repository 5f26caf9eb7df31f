"""The endpoint kinds of this package, as its entry points name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.context import ConversionContext, DatasetContext
from gen_worker.context.jobs import DatasetKind, JobKind

if TYPE_CHECKING:
    from gen_worker.spec import Kind

__all__ = ["CONVERSION", "DATASET"]

CONVERSION: Kind = JobKind("conversion", ConversionContext)
"""Functions that turn a source into weights, published as one revision of the destination."""

DATASET: Kind = DatasetKind("dataset", DatasetContext)
"""Functions that make one dataset, published as a revision of it."""
