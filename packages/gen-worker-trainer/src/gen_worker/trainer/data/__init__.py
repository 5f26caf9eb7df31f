"""Where batches come from: Parquet, Arrow streams or the job spec itself, each with a cursor."""

from __future__ import annotations

from gen_worker.trainer.data.cursor import BatchSource, Cursor
from gen_worker.trainer.data.feed import ArrowBatchFeeder, ArrowFeedConfig, ParquetArrowBatchFeeder
from gen_worker.trainer.data.lists import ArrowIpcBatches, MockBatches

__all__ = [
    "ArrowBatchFeeder",
    "ArrowFeedConfig",
    "ArrowIpcBatches",
    "BatchSource",
    "Cursor",
    "MockBatches",
    "ParquetArrowBatchFeeder",
]
