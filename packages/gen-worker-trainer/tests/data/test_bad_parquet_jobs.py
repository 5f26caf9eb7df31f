"""Parquet files that are wrong fail a job as its input, and cost nothing that was learned."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.settings import CoreSettings
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.mode import run

if TYPE_CHECKING:
    from collections.abc import Callable

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FAILED = "input:failed to materialize training inputs"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a job on files; return its exit code."""
    own = Path(__file__).parents[1] / "bad_trainer.py"
    shutil.copyfile(own, tmp_path / "bad_trainer.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_trainer", raising=False)
    monkeypatch.setenv("TRAINER_JOB_SPEC_PATH", str(tmp_path / "job.json"))
    monkeypatch.setenv("TRAINER_ARTIFACTS_DIR", str(tmp_path / "out"))

    def train(*paths: Path, **dataset: Any) -> int:
        spec = {
            "request_id": "run-7",
            "trainer": "bad_trainer:Counting",
            "max_steps": 9,
            "checkpoint_every": 1,
            "dataset": {"parquet_paths": [str(path) for path in paths], "batch_size": 4, **dataset},
        }
        (tmp_path / "job.json").write_text(json.dumps(spec))
        return run(CoreSettings())

    return train


def ended(folder: Path) -> tuple[str, int, str, int]:
    """Return the last event, its step and error, and the step of the newest whole checkpoint."""
    lines = (folder / "out" / "metrics" / "events.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    with CheckpointStore(str(folder / "out" / "checkpoints"), warn=pytest.fail) as store:
        newest = store.newest()
    kept = 0 if newest is None else newest.checkpoint.step
    return last["event"], last["step"], last.get("error", ""), kept


def written(path: Path, rows: int) -> Path:
    pq.write_table(pa.table({"id": range(rows), "text": ["x"] * rows}), path, row_group_size=4)
    return path


def test_files_without_rows_are_a_run_without_steps(
    train: Callable[..., int], tmp_path: Path
) -> None:
    assert train(written(tmp_path / "empty.parquet", 0)) == 0
    assert ended(tmp_path)[:2] == ("completed", 0)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 1000 + b"PAR1", b"no Parquet"])
def test_files_that_are_none(train: Callable[..., int], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    assert train(tmp_path / "bad.parquet") == 1
    assert ended(tmp_path) == ("failed", 0, FAILED, 0)


def test_a_file_that_is_not_there(train: Callable[..., int], tmp_path: Path) -> None:
    assert train(tmp_path / "none.parquet") == 1
    assert ended(tmp_path) == ("failed", 0, FAILED, 0)


def test_columns_that_are_unknown(train: Callable[..., int], tmp_path: Path) -> None:
    assert train(written(tmp_path / "rows.parquet", 8), columns=["id", "label"]) == 1
    assert ended(tmp_path) == ("failed", 0, FAILED, 0)


def test_a_file_that_is_damaged_in_the_middle(train: Callable[..., int], tmp_path: Path) -> None:
    path = written(tmp_path / "rows.parquet", 12)
    body, group = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(2)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    body[start : start + 24] = b"\xff" * 24
    path.write_bytes(body)
    assert train(path, readahead=0) == 1
    assert ended(tmp_path) == ("failed", 2, FAILED, 2)


def test_a_file_that_vanishes_between_two_attempts(
    train: Callable[..., int], tmp_path: Path
) -> None:
    path = written(tmp_path / "rows.parquet", 8)
    assert train(path) == 0
    path.unlink()
    assert train(path) == 1
    assert ended(tmp_path)[:3] == ("failed", 0, FAILED)
