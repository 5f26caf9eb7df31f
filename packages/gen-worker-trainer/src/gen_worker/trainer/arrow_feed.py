"""Batches from Arrow and Parquet files, by the name that older trainers import them from."""

from __future__ import annotations

from gen_worker.trainer.data import (
    ArrowBatchFeeder,
    ArrowFeedConfig,
    ArrowIpcBatches,
    ParquetArrowBatchFeeder,
)

__all__ = ["ArrowBatchFeeder", "ArrowFeedConfig", "ArrowIpcBatches", "ParquetArrowBatchFeeder"]
