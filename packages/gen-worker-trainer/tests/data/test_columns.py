"""Columns of batches: one form for Arrow and for job specs, and every wrong row named."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.trainer.data.columns import columns_of, numbers, texts

COLUMNS: dict[str, list[Any]] = {"text": ["one", "two"], "score": [1, 0.5]}


def test_columns_rows_and_arrow_are_the_same() -> None:
    pa = pytest.importorskip("pyarrow")
    rows = [{"text": "one", "score": 1}, {"text": "two", "score": 0.5}]

    assert columns_of(COLUMNS) == columns_of(rows) == COLUMNS
    assert columns_of(pa.RecordBatch.from_pydict(COLUMNS)) == COLUMNS
    assert columns_of(pa.table(COLUMNS)) == COLUMNS


def test_a_row_without_a_column_has_none_there() -> None:
    assert columns_of([{"a": 1}, {"b": 2}]) == {"a": [1, None], "b": [None, 2]}


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (3, "a batch is int"),
        ([], "a batch is list"),
        (["text"], "a batch is list"),
        ({"text": "one"}, "column 'text' is str"),
        ({"text": ["one"], "score": [1, 2]}, "differ in length: {'text': 1, 'score': 2}"),
    ],
)
def test_what_is_no_batch_is_refused(batch: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        columns_of(batch)


def test_texts_and_numbers_are_taken_by_name() -> None:
    assert texts(COLUMNS, "text") == ["one", "two"]
    assert numbers(COLUMNS, "score") == [1.0, 0.5]
    with pytest.raises(ValidationError, match="no column 'title': its columns are 'text', 'score'"):
        texts(COLUMNS, "title")


def test_every_wrong_row_is_named() -> None:
    columns: dict[str, list[Any]] = {
        "text": ["a", "", None, " ", 3, b"x", ["y"]],
        "score": [1, "2", None, True] + [0] * 3,
    }

    with pytest.raises(ValidationError) as caught:
        texts(columns, "text")
    said = "row 1 is empty, row 2 is None, row 3 is empty, row 4 is 3, row 5 is b'x' and 1 more"
    assert str(caught.value) == f"column 'text' has to hold texts: {said}"

    with pytest.raises(ValidationError, match="row 1 is '2', row 2 is None, row 3 is True"):
        numbers(columns, "score")
    with pytest.raises(ValidationError, match="row 0 is nan"):
        numbers({"score": [float("nan")]}, "score")
