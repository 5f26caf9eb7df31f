"""A run that goes on in another number of processes repeats no row, and passes over none."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.batches import batches_of
from gen_worker.trainer.job_file import parse_job

pa = pytest.importorskip("pyarrow")

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.trainer.data import BatchSource

_BATCHES = 23


def sources(kind: str, directory: Path, ranks: int) -> list[BatchSource]:
    """Return the source of each rank, in which every batch has one number."""
    import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

    numbers = list(range(_BATCHES))
    table = pa.table({"n": numbers})
    paths, stream, fields = [], "", dict[str, Any]()
    if kind == "parquet":
        paths = [str(directory / "rows.parquet")]
        pq.write_table(table, paths[0], row_group_size=5)
    elif kind == "stream":
        stream = str(directory / "rows.arrow")
        with pa.OSFile(stream, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    elif kind == "folder":
        fields = {"folder": str(directory)}
        for number in numbers:
            (directory / f"{number:02d}.png").touch()
    made = []
    for rank in range(ranks):
        share = {"batch_size": 1, "shard_index": rank, "shard_count": ranks, **fields}
        spec = {"request_id": "r", "dataset": share, "mock_batches": [{"n": [n]} for n in numbers]}
        made.append(batches_of(parse_job(spec), paths, arrow_ipc_path=stream))
    return made


def number_of(batch: Any) -> int:
    columns = batch if isinstance(batch, dict) else batch.to_pydict()
    return int(columns["n" if "n" in columns else "index"][0])


def dealt(made: list[BatchSource], rounds: int | None) -> list[int]:
    """Return the numbers in the order of the rounds."""
    each = [
        [number_of(batch) for batch in itertools.islice(one.iter_batches(), rounds)] for one in made
    ]
    return [number for step in zip(*each, strict=True) for number in step]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2), (1, 4), (4, 3)])
@pytest.mark.parametrize("kind", ["parquet", "stream", "folder", "spec"])
def test_the_rest_is_dealt_to_all(kind: str, before: int, after: int, tmp_path: Path) -> None:
    first = sources(kind, tmp_path, before)
    seen = dealt(first, 3)
    assert len({one.cursor() for one in first}) == 1

    second = sources(kind, tmp_path, after)
    for source in second:
        source.seek(first[0].cursor())
    rest = dealt(second, None)

    assert seen + rest == list(range(len(seen) + len(rest)))
    assert 0 <= _BATCHES - len(seen) - len(rest) < after
