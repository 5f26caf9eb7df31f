"""What feeding a training costs: rows per second against a bare scan, and memory.

The peer reads the same files with the same batch size through `pyarrow.dataset`, and throws the
batches away. Memory is that of a process of its own: all of it for a data set of many times its
size, and what Arrow allocates for a shuffle buffer.

    python bench/trainer_feed.py [--save] [--gib 5] [--directory /var/tmp] [--only rows|memory]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from harness import Row, paired, peak_mib, save

from gen_worker.trainer.data import ArrowFeedConfig, ParquetArrowBatchFeeder

try:
    import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.dataset as ds  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    print("bench/trainer_feed.py is skipped: it needs pyarrow")
    sys.exit(0)

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/trainer_feed.py"
MIB = 1024**2
MOST_MIB = 600
"""Resident, for a data set of any size."""
GROUP_ROWS = 8_192
BUFFER_ROWS = 10_000
ROW_BYTES = 4_096
"""Of the rows whose memory is measured."""


def written(path: str, rows: int, row_bytes: int) -> str:
    """Write a file of rows that do not compress; return its path."""
    noise = random.Random(rows)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("data", pa.binary())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            ids = range(start, start + count)
            block = noise.randbytes(row_bytes * count)
            data = [block[one * row_bytes : (one + 1) * row_bytes] for one in range(count)]
            table = pa.table([ids, [f"row {one} of many" for one in ids], data], schema=schema)
            writer.write_table(table, row_group_size=GROUP_ROWS)
    return path


def rate(batches: Callable[[], Any], rows: int) -> Callable[[], float]:
    """Return what measures the rows per second of one pass."""

    def measure() -> float:
        started = perf_counter()
        seen = sum(batch.num_rows for batch in batches())
        seconds = perf_counter() - started
        assert seen == rows
        return rows / seconds / 1e3

    return measure


def feed(path: str, **config: Any) -> Any:
    return ParquetArrowBatchFeeder([path], ArrowFeedConfig(**config)).iter_batches()


def scan(path: str, batch_size: int) -> Any:
    dataset = ds.dataset([path], format="parquet")
    return dataset.scanner(batch_size=batch_size, batch_readahead=2).to_batches()


def rate_rows(folder: str) -> list[Row]:
    """Measure narrow rows, where each batch costs, and wide ones, where bytes do."""
    result = []
    for name, rows, row_bytes, size in (
        ("narrow rows, batches of 256", 400_000, 64, 256),
        ("narrow rows, batches of 32", 120_000, 64, 32),
        ("rows of 4 KiB, batches of 32", 24_000, 4096, 32),
    ):
        path = written(os.path.join(folder, f"{rows}.parquet"), rows, row_bytes)
        peer = rate(partial(scan, path, size), rows)
        for how, more in (("in order", {}), ("shuffled", {"shuffle": True})):
            result.append(
                paired(
                    f"{name}, {how} (peer: bare scan)",
                    rate(partial(feed, path, batch_size=size, **more), rows),
                    peer,
                    unit="k/s",
                    peer_source=SOURCE,
                    goal="x >= 0.8",
                    passes=lambda a, b, ratio: ratio >= 0.8,
                )
            )
    return result


# -- memory ----------------------------------------------------------------------------------------


def consume(how: str, paths: list[str]) -> None:
    """In a process of its own: read everything once; print peaks of the process and of Arrow."""
    if how == "scan":
        batches: Any = ds.dataset(paths, format="parquet").scanner(batch_size=32).to_batches()
    else:
        config = ArrowFeedConfig(shuffle=how != "order", shuffle_buffer_rows=BUFFER_ROWS)
        batches = ParquetArrowBatchFeeder(paths, config).iter_batches()
    for _ in batches:
        pass
    print(peak_mib(), pa.default_memory_pool().max_memory() / MIB)


def peaks(how: str, paths: list[str]) -> tuple[float, float]:
    """Return MiB that reading took at most: resident, and allocated by Arrow."""
    words = [sys.executable, __file__, "--consume", how, *paths]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    resident, allocated = done.stdout.split()
    return float(resident), float(allocated)


def memory_rows(folder: str, gib: float) -> list[Row]:
    rows_of_file = 65_536
    count = max(1, round(gib * 1024 * MIB / (rows_of_file * ROW_BYTES)))
    paths = [
        written(os.path.join(folder, f"part-{number}.parquet"), rows_of_file, ROW_BYTES)
        for number in range(count)
    ]
    size = f"{count * rows_of_file * ROW_BYTES / 1024 / MIB:.1f} GiB"
    buffer_mib = BUFFER_ROWS * ROW_BYTES / MIB
    scanned, _ = peaks("scan", paths)
    result = []
    for how in ("order", "shuffle"):
        resident, allocated = peaks(how, paths)
        ratio = resident / scanned
        name = f"resident, {size} {'shuffled' if how == 'shuffle' else 'in order'} (peer: scan)"
        goal = f"<= {MOST_MIB} MiB"
        is_met = resident <= MOST_MIB
        result.append(
            Row(name, "MiB", resident, scanned, ratio, ratio, ratio, 1, SOURCE, goal, is_met)
        )
    ratio = allocated / buffer_mib
    name = f"Arrow's memory, buffer of {BUFFER_ROWS} rows (peer: those rows)"
    result.append(
        Row(
            name,
            "MiB",
            allocated,
            buffer_mib,
            *(ratio,) * 3,
            1,
            SOURCE,
            "x <= 4",
            ratio <= 4,
        )
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--directory")
    parser.add_argument("--only", choices=("rows", "memory"))
    parser.add_argument("--consume", nargs="+")
    given = parser.parse_args()
    if given.consume:
        consume(given.consume[0], given.consume[1:])
        return
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        rows: list[Row] = []
        if given.only != "memory":
            rows += rate_rows(folder)
        if given.only != "rows":
            rows += memory_rows(folder, given.gib)
    save("trainer_feed", rows)


if __name__ == "__main__":
    main()
