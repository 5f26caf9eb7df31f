"""A job's batches, and where a resumed run begins in them."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.trainer.batches import SkippingBatches, batches_of
from gen_worker.trainer.data import Cursor, MockBatches, ParquetArrowBatchFeeder
from gen_worker.trainer.job_file import JobFile, parse_job


def job(**fields: Any) -> JobFile:
    return parse_job({"request_id": "r", "mock_batches": ["a", "b", "c"], **fields})


def test_files_come_before_the_batches_in_the_spec() -> None:
    assert isinstance(batches_of(job(), ["data.parquet"]), ParquetArrowBatchFeeder)
    assert isinstance(batches_of(job(), []), MockBatches)


@pytest.mark.parametrize(
    ("fields", "batches"),
    [
        ({}, ["a", "b", "c"]),
        ({"dataset": {"epochs": 2}}, ["a", "b", "c"] * 2),
        ({"mock_batches": None}, []),
    ],
)
def test_the_batches_of_a_spec(fields: dict[str, Any], batches: list[str]) -> None:
    assert list(batches_of(job(**fields), []).iter_batches()) == batches


@pytest.mark.parametrize(("count", "left"), [(0, ["a", "b", "c"]), (2, ["c"]), (5, [])])
def test_what_was_trained_on_is_passed_over(count: int, left: list[str]) -> None:
    source = SkippingBatches(batches_of(job(), []), count)

    assert list(source.iter_batches()) == left
    assert source.cursor() == Cursor(epoch=1)


def test_a_place_in_the_data_comes_before_a_number_of_batches() -> None:
    source = SkippingBatches(batches_of(job(), []), 2)

    source.seek(Cursor(batch=1))

    assert list(source.iter_batches()) == ["b", "c"]
