"""Where batches come from: Parquet, Arrow streams, folders or the job spec, each with a cursor."""

from __future__ import annotations

from gen_worker.trainer.data.cursor import BatchSource, Cursor
from gen_worker.trainer.data.feed import ArrowBatchFeeder, ArrowFeedConfig, ParquetArrowBatchFeeder
from gen_worker.trainer.data.folders import FolderBatches, FolderConfig
from gen_worker.trainer.data.lists import ArrowIpcBatches, MockBatches
from gen_worker.trainer.data.loading import LoadedBatches

__all__ = [
    "ArrowBatchFeeder",
    "ArrowFeedConfig",
    "ArrowIpcBatches",
    "BatchSource",
    "Cursor",
    "FolderBatches",
    "FolderConfig",
    "LoadedBatches",
    "MockBatches",
    "ParquetArrowBatchFeeder",
]
