"""Batches that are there already: in the job spec, or in an Arrow stream file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.data.cursor import Cursor, Positioned
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ArrowIpcBatches", "MockBatches", "require_pyarrow"]


class MockBatches(Positioned):
    """The batches of a job spec, as they are written there."""

    def __init__(
        self,
        batches: Sequence[Any],
        *,
        epochs: int = 1,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        """Begin with the first.

        Args:
            batches: JSON values.
            epochs: How often all of them are given; 0 never ends.
            shard_index: Which of each `shard_count` batches this rank takes.
            shard_count: Ranks. A last round in which not all of them get one is left out.
        """
        super().__init__()
        self._batches = batches
        self._epochs = epochs
        self._shard_index = shard_index
        self._shard_count = shard_count

    def iter_batches(self) -> Iterator[Any]:
        """Yield them from the cursor on."""
        behind_last_round = len(self._batches) - self._shard_count + 1
        while behind_last_round > 0 and (not self._epochs or self._cursor.epoch < self._epochs):
            epoch = self._cursor.epoch
            for number in range(self._cursor.batch, behind_last_round, self._shard_count):
                self._cursor = Cursor(epoch=epoch, batch=number + self._shard_count)
                yield self._batches[number + self._shard_index]
            self._cursor = Cursor(epoch=epoch + 1)


class ArrowIpcBatches(Positioned):
    """The record batches of an Arrow IPC stream file, one after the other; one is in memory."""

    def __init__(self, path: str, *, shard_index: int = 0, shard_count: int = 1) -> None:
        """Begin with the first.

        Args:
            path: Of the file.
            shard_index: Which of each `shard_count` batches this rank takes.
            shard_count: Ranks. A last round in which not all of them get one is left out.
        """
        super().__init__()
        self._path = path
        self._shard_index = shard_index
        self._shard_count = shard_count

    def iter_batches(self) -> Iterator[Any]:
        """Yield them from the cursor on.

        Raises:
            RuntimeError: pyarrow is not installed.
            InputMaterializationError: The file is no Arrow stream, or ends halfway.
        """
        require_pyarrow()
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

        mine: Any = None
        skip = self._cursor.batch
        try:
            with pa.OSFile(self._path) as file, pa.ipc.open_stream(file) as stream:
                for number, batch in enumerate(stream):
                    if number < skip:
                        continue
                    turn = (number - skip) % self._shard_count
                    if turn == self._shard_index:
                        mine = batch
                    if turn == self._shard_count - 1:  # all ranks have one
                        self._cursor = Cursor(batch=number + 1)
                        yield mine
        except (OSError, pa.ArrowInvalid) as error:
            raise InputMaterializationError(
                f"{self._path!r} cannot be read as an Arrow stream: {error}"
            ) from error


def require_pyarrow() -> None:
    """Say how to get it where it is not there.

    Raises:
        RuntimeError: It is not.
    """
    try:
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        raise RuntimeError(
            "Arrow and Parquet files are read with pyarrow: pip install 'gen-worker[trainer]'"
        ) from None
