"""Batches of Parquet files: which rows are in which, and where a run goes on."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gen_worker.trainer.data import (
    ArrowFeedConfig,
    ArrowIpcBatches,
    Cursor,
    MockBatches,
    ParquetArrowBatchFeeder,
)
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

_GROUPS = ((7, 7, 3), (20,), (1, 5, 5, 5))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of row groups of several sizes; 53 rows in all."""
    folder = tmp_path_factory.mktemp("data")
    number = itertools.count()
    made: list[str] = []
    for index, groups in enumerate(_GROUPS):
        schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
        path = str(folder / f"part-{index}.parquet")
        with pq.ParquetWriter(path, schema) as writer:
            for rows in groups:
                ids = [next(number) for _ in range(rows)]
                table = pa.table({"id": ids, "text": [f"row {one}" for one in ids]}, schema)
                writer.write_table(table, row_group_size=rows)
        made.append(path)
    return made


def ids(batches: Any) -> list[list[int]]:
    return [batch.column("id").to_pylist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [one for batch in batches for one in batch]


def fed(paths: list[str], **config: Any) -> list[list[int]]:
    return ids(ParquetArrowBatchFeeder(paths, ArrowFeedConfig(**config)).iter_batches())


def test_rows_come_in_order_and_short_where_a_row_group_ends(paths: list[str]) -> None:
    feeder = ParquetArrowBatchFeeder(paths, ArrowFeedConfig(batch_size=4))

    batches = list(feeder.iter_batches())

    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)
    assert batches[0].schema.names == ["id", "text"]
    assert [len(one) for one in ids(batches)] == [4, 3, 4, 3, 3, 4, 4, 4, 4, 4, 1] + [4, 1] * 3
    assert flat(ids(batches)) == list(range(53))


def test_a_batch_may_be_larger_than_a_row_group(paths: list[str]) -> None:
    assert [len(one) for one in fed(paths, batch_size=100, columns=("id",))] == [
        7,
        7,
        3,
        20,
        1,
        5,
        5,
        5,
    ]


def test_pieces_can_be_joined(paths: list[str]) -> None:
    batches = fed(paths, batch_size=10, rebatch=True)

    assert [len(one) for one in batches] == [10, 10, 10, 10, 10, 3]
    assert flat(batches) == list(range(53))
    assert [len(one) for one in fed(paths, batch_size=10, rebatch=True, drop_last=True)] == [10] * 5


def test_only_the_columns_that_are_wanted(paths: list[str]) -> None:
    config = ArrowFeedConfig(columns=("text",))
    batch = next(iter(ParquetArrowBatchFeeder(paths, config).iter_batches()))

    assert batch.schema.names == ["text"]


def test_shuffled_rows_are_all_there_and_in_another_order_each_epoch(paths: list[str]) -> None:
    config = {"batch_size": 5, "shuffle": True, "shuffle_buffer_rows": 20, "epochs": 2}
    batches = fed(paths, shuffle_seed=3, **config)

    rows = flat(batches)
    first, second = rows[:53], rows[53:]
    assert sorted(first) == sorted(second) == list(range(53))
    assert first != second
    assert first != list(range(53))
    assert [len(one) for one in batches[:11]] == [5] * 10 + [3]
    assert fed(paths, shuffle_seed=3, **config) == batches
    assert fed(paths, shuffle_seed=4, **config) != batches


def test_the_order_is_the_same_everywhere(paths: list[str]) -> None:
    """What a checkpoint of today means has to be what it meant."""
    rows = flat(fed(paths, batch_size=8, shuffle=True, shuffle_seed=7))

    assert rows[:8] == _ORDER_OF_SEED_7


_ORDER_OF_SEED_7 = [26, 40, 22, 13, 36, 38, 52, 17]


@pytest.mark.parametrize("readahead", [0, 1, 5])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"rebatch": True},
        {"shuffle": True, "shuffle_buffer_rows": 12},
        {"shuffle": True, "drop_last": True},
    ],
)
def test_a_run_goes_on_exactly_where_it_was(
    paths: list[str], how: dict[str, Any], readahead: int
) -> None:
    config = ArrowFeedConfig(batch_size=4, epochs=3, readahead=readahead, **how)
    whole = ids(ParquetArrowBatchFeeder(paths, config).iter_batches())

    for stop in range(len(whole) + 1):
        first = ParquetArrowBatchFeeder(paths, config)
        taken = ids(itertools.islice(first.iter_batches(), stop))
        second = ParquetArrowBatchFeeder(paths, config)
        second.seek(first.cursor())
        assert taken + ids(second.iter_batches()) == whole


@pytest.mark.parametrize("how", [{}, {"shuffle": True}, {"rebatch": True}])
def test_ranks_share_the_batches_of_one(paths: list[str], how: dict[str, Any]) -> None:
    config = ArrowFeedConfig(batch_size=3, epochs=2, **how)
    alone = ids(ParquetArrowBatchFeeder(paths, config).iter_batches())
    each = [
        ids(
            ParquetArrowBatchFeeder(
                paths, replace(config, shard_index=rank, shard_count=3)
            ).iter_batches()
        )
        for rank in range(3)
    ]

    assert len({len(batches) for batches in each}) == 1
    of_epoch = len(alone) // 2
    kept = of_epoch - of_epoch % 3
    dealt = [batch for step in zip(*each, strict=True) for batch in step]
    assert dealt == alone[:kept] + alone[of_epoch : of_epoch + kept]


def test_a_run_goes_on_with_another_number_of_ranks(paths: list[str]) -> None:
    config = ArrowFeedConfig(batch_size=3, shuffle=True)
    alone = ids(ParquetArrowBatchFeeder(paths, config).iter_batches())
    two = [
        ParquetArrowBatchFeeder(paths, replace(config, shard_index=rank, shard_count=2))
        for rank in range(2)
    ]
    seen = [ids(itertools.islice(feeder.iter_batches(), 3)) for feeder in two]
    assert two[0].cursor() == two[1].cursor()

    four = [
        ParquetArrowBatchFeeder(paths, replace(config, shard_index=rank, shard_count=4))
        for rank in range(4)
    ]
    for feeder in four:
        feeder.seek(two[0].cursor())
    each = [ids(itertools.islice(feeder.iter_batches(), 2)) for feeder in four]
    assert [one for step in zip(*each, strict=True) for one in step] == alone[6:14]
    after = ParquetArrowBatchFeeder(paths, config)
    after.seek(two[0].cursor())

    assert [one for step in zip(*seen, strict=True) for one in step] == alone[:6]
    assert ids(after.iter_batches()) == alone[6:]


def test_it_never_ends(paths: list[str]) -> None:
    feeder = ParquetArrowBatchFeeder(paths[:1], ArrowFeedConfig(batch_size=17, epochs=0))

    assert len(list(itertools.islice(feeder.iter_batches(), 40))) == 40
    assert feeder.cursor().epoch >= 12


def test_epochs_of_nothing_end(paths: list[str], tmp_path: Path) -> None:
    assert fed(paths[:1], batch_size=100, rebatch=True, drop_last=True, epochs=0) == []
    empty = str(tmp_path / "empty.parquet")
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), empty)
    assert fed([empty], epochs=0) == []
    assert fed([], epochs=0) == []
    config = ArrowFeedConfig(batch_size=17, rebatch=True, epochs=0, shard_count=9)
    assert list(ParquetArrowBatchFeeder(paths[:1], config).iter_batches()) == []


def test_a_cursor_of_other_data_is_refused(paths: list[str]) -> None:
    feeder = ParquetArrowBatchFeeder(paths, ArrowFeedConfig(batch_size=4, shuffle=True))
    next(iter(feeder.iter_batches()))
    cursor = feeder.cursor()

    for other in (
        ParquetArrowBatchFeeder(paths[:2], ArrowFeedConfig(batch_size=4, shuffle=True)),
        ParquetArrowBatchFeeder(paths, ArrowFeedConfig(batch_size=5, shuffle=True)),
        ParquetArrowBatchFeeder(paths, ArrowFeedConfig(batch_size=4)),
        ParquetArrowBatchFeeder(paths, ArrowFeedConfig(batch_size=4, shuffle=True, shuffle_seed=1)),
    ):
        with pytest.raises(ValueError, match="made with other data"):
            other.seek(cursor)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 1000 + b"PAR1"])
def test_what_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)

    with pytest.raises(InputMaterializationError, match=r"broken\.parquet.*cannot be read"):
        fed([str(path)])


def test_a_file_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    noise = [random.Random(n).randbytes(64) for n in range(4000)]
    pq.write_table(pa.table({"id": range(4000), "data": noise}), path, compression="zstd")
    body = bytearray(path.read_bytes())
    body[2000 : len(body) // 2] = b"\0" * (len(body) // 2 - 2000)
    path.write_bytes(body)

    with pytest.raises(InputMaterializationError, match=r"damaged\.parquet"):
        fed([str(path)])


def test_unknown_columns_are_named(paths: list[str]) -> None:
    with pytest.raises(InputMaterializationError, match="no column label: it has id, text"):
        fed(paths, columns=("id", "label"))


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputMaterializationError, match="cannot be read"):
        fed([str(tmp_path / "none.parquet")])


def test_a_run_that_stops_leaves_no_thread(paths: list[str]) -> None:
    before = threading.active_count()
    for _ in range(5):
        batches: Iterator[Any] = ParquetArrowBatchFeeder(
            paths, ArrowFeedConfig(batch_size=1, readahead=2, epochs=0)
        ).iter_batches()
        next(batches)
        batches.close()  # type: ignore[attr-defined]

    assert threading.active_count() == before


def test_batches_of_a_job_spec() -> None:
    first = MockBatches(["a", "b", "c"], epochs=2)
    assert list(first.iter_batches()) == ["a", "b", "c"] * 2
    again = MockBatches(["a", "b", "c"], epochs=2)
    assert list(itertools.islice(again.iter_batches(), 4)) == ["a", "b", "c", "a"]
    resumed = MockBatches(["a", "b", "c"], epochs=2)
    resumed.seek(again.cursor())
    assert list(resumed.iter_batches()) == ["b", "c"]
    assert list(MockBatches([], epochs=0).iter_batches()) == []


def test_an_arrow_stream(tmp_path: Path) -> None:
    path = str(tmp_path / "batches.arrow")
    schema = pa.schema([("id", pa.int64())])
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in (0, 3, 6):
            stream.write_batch(pa.record_batch({"id": range(start, start + 3)}, schema))

    first = ArrowIpcBatches(path)
    assert ids(itertools.islice(first.iter_batches(), 1)) == [[0, 1, 2]]
    second = ArrowIpcBatches(path)
    second.seek(first.cursor())
    assert ids(second.iter_batches()) == [[3, 4, 5], [6, 7, 8]]
    assert second.cursor() == Cursor(batch=3)
    with pytest.raises(InputMaterializationError, match="cannot be read as an Arrow stream"):
        list(ArrowIpcBatches(str(tmp_path / "none.arrow")).iter_batches())
