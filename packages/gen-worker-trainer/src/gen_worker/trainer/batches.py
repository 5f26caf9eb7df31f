"""Which batches a job trains on, and where in them a resumed run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.data import (
    ArrowFeedConfig,
    ArrowIpcBatches,
    BatchSource,
    Cursor,
    FolderBatches,
    FolderConfig,
    MockBatches,
    ParquetArrowBatchFeeder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.trainer.job_file import JobFile

__all__ = ["SkippingBatches", "batches_of"]


def batches_of(
    job: JobFile, parquet_paths: Sequence[str], *, arrow_ipc_path: str = ""
) -> BatchSource:
    """Return the source of a job: Parquet files, else a folder, else the batches in its spec.

    Args:
        job: Says how they are fed.
        parquet_paths: Files that are here.
        arrow_ipc_path: An Arrow stream file, which takes the place of all of them.
    """
    dataset = job.dataset
    if arrow_ipc_path:
        return ArrowIpcBatches(
            arrow_ipc_path, shard_index=dataset.shard_index, shard_count=dataset.shard_count
        )
    if dataset.folder and not parquet_paths:
        names = FolderConfig.__struct_fields__
        return FolderBatches(
            dataset.folder, FolderConfig(**{name: getattr(dataset, name) for name in names})
        )
    if not parquet_paths:
        return MockBatches(
            job.mock_batches,
            epochs=dataset.epochs,
            shard_index=dataset.shard_index,
            shard_count=dataset.shard_count,
        )
    names = ArrowFeedConfig.__struct_fields__
    config = ArrowFeedConfig(**{name: getattr(dataset, name) for name in names})
    return ParquetArrowBatchFeeder(parquet_paths, config)


class SkippingBatches:
    """A source whose first batches are passed over: for a checkpoint that kept no place in it."""

    def __init__(self, source: BatchSource, count: int) -> None:
        """Prepare.

        Args:
            source: Begins with its first batch.
            count: Batches that were trained on already.
        """
        self._source = source
        self._count = count

    def cursor(self) -> Cursor:
        return self._source.cursor()

    def seek(self, cursor: Cursor) -> None:
        self._source.seek(cursor)
        self._count = 0

    def iter_batches(self) -> Iterator[Any]:
        for number, batch in enumerate(self._source.iter_batches()):
            if number >= self._count:
                yield batch
