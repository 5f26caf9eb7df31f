"""An Arrow stream file as a source of batches: in order, from any place on, one batch in memory."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.data import ArrowIpcBatches
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from pathlib import Path

pa = pytest.importorskip("pyarrow")

_ROWS = 4


def stream_of(path: Path, batches: int, rows: int = _ROWS) -> str:
    schema = pa.schema([("x", pa.int64())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for number in range(batches):
            stream.write_batch(pa.record_batch({"x": [number] * rows}, schema=schema))
    return str(path)


def numbers(source: ArrowIpcBatches) -> list[int]:
    return [batch.column("x")[0].as_py() for batch in source.iter_batches()]


@pytest.mark.parametrize("at", range(6))
def test_it_goes_on_at_its_cursor(tmp_path: Path, at: int) -> None:
    path = stream_of(tmp_path / "rows", 5)
    first = ArrowIpcBatches(path)
    taken = first.iter_batches()
    for _ in range(at):
        next(taken, None)

    second = ArrowIpcBatches(path)
    second.seek(first.cursor())

    assert numbers(second) == list(range(at, 5))


def test_ranks_share_the_batches_evenly(tmp_path: Path) -> None:
    path = stream_of(tmp_path / "rows", 8)
    ranks = [ArrowIpcBatches(path, shard_index=rank, shard_count=3) for rank in range(3)]

    assert [numbers(rank) for rank in ranks] == [[0, 3], [1, 4], [2, 5]]
    assert len({rank.cursor() for rank in ranks}) == 1


def test_one_batch_is_in_memory(tmp_path: Path) -> None:
    path = stream_of(tmp_path / "rows", 40, rows=100_000)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in ArrowIpcBatches(path).iter_batches()]

    assert len(held) == 40
    assert max(held) < 3 * 100_000 * 8
    assert all(later <= earlier * 2 for earlier, later in pairwise(held))


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "cut"])
def test_a_file_that_is_none_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows"
    if damage != "absent":
        whole = stream_of(path, 3)
        content = {"empty": b"", "text": b"hello, world", "cut": path.read_bytes()[:-200]}
        path.write_bytes(content[damage])
        assert whole == str(path)

    with pytest.raises(InputMaterializationError, match=re.escape(repr(str(path)))):
        drain(ArrowIpcBatches(str(path)))


def drain(source: Any) -> None:
    for _ in source.iter_batches():
        pass
