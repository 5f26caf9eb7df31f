"""A job that needs a library which is not installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.training.failing import tell
from gen_worker.trainer.data.lists import require_pyarrow

if TYPE_CHECKING:
    from pytest import CaptureFixture, MonkeyPatch


def test_it_is_named_in_one_sentence(monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RuntimeError) as raised:
        require_pyarrow()

    assert tell(raised.value, is_verbose=False) == 1
    assert capsys.readouterr().err == (
        "gen-worker train: RuntimeError: Arrow and Parquet files are read with pyarrow: "
        "pip install 'gen-worker[trainer]'\n"
    )
