"""A job that needs a library which is not installed."""

from __future__ import annotations

import sys

import pytest

from gen_worker.cli.training.failing import tell
from gen_worker.trainer.data.lists import require_pyarrow


def test_it_is_named_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RuntimeError) as raised:
        require_pyarrow()

    trace = raised.value.__traceback__
    assert trace is not None
    error = raised.value.with_traceback(trace.tb_next)  # as where no test has called

    assert tell(error, is_verbose=False) == 1
    assert capsys.readouterr().err == (
        "gen-worker train: RuntimeError: Arrow and Parquet files are read with pyarrow: "
        "pip install 'gen-worker[trainer]'\n"
    )
