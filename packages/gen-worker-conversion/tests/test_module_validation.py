"""A module of jobs is checked without running any."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.conversion import format_report, validate_transform_module

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """from __future__ import annotations
from gen_worker.conversion import *
class Source: ...
"""
JOB = """
@training_function(kind={kind!r}, name={name!r})
def {function}(ctx: ConversionContext, source: Source{more}) -> list[ProducedFlavor]: return []
"""

CLASSES = """
import msgspec
from gen_worker import dataset

class In(msgspec.Struct): ...

@dataset
class Rows:
    def setup(self): ...

    @dataset.function
    def rows(self, ctx: DatasetContext, payload: In) -> list[ProducedFlavor]: return []
"""


def job(function: str, name: str | None = None, kind: str = "quantization", more: str = "") -> str:
    return JOB.format(function=function, name=name, kind=kind, more=more)


@pytest.mark.parametrize(
    ("text", "expected_kind", "kinds", "is_ok"),
    [
        (job("a") + job("b", kind="quantization:gptq-w4"), "quantization", [], True),
        ("import no_such_module_anywhere", None, ["import_failed"], False),
        ("1 +", None, ["import_failed"], False),
        (job("a", kind=" "), None, ["decorator_error"], False),
        (job("a", more=", x: Nowhere"), None, ["unresolved_annotation"], False),
        (job("a", "same") + job("b", "same"), None, ["duplicate_function_name"], False),
        (job("a", kind="pruning"), "quantization", ["endpoint_kind_mismatch"], False),
        (job("a", kind="shrinking"), None, ["kind_label_suspect"], True),
        (job("a") + job("b", kind="pruning"), "conversion", [], True),
        (CLASSES, "dataset-generation:captions", [], True),
        (CLASSES, "dataset", [], True),
        (CLASSES, "conversion", ["endpoint_kind_mismatch"], False),
    ],
)
def test_each_mistake_has_its_kind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected_kind: str | None,
    kinds: list[str],
    is_ok: bool,
) -> None:
    (tmp_path / "jobs_to_check.py").write_text(HEAD + text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "jobs_to_check", raising=False)
    report = validate_transform_module("jobs_to_check", expected_kind=expected_kind)
    monkeypatch.delitem(sys.modules, "jobs_to_check", raising=False)
    assert [violation.kind for violation in report.violations] == kinds, format_report(report)
    assert report.ok is is_ok
    lines = format_report(report).splitlines()
    assert lines[0].startswith(f"jobs_to_check: {'ok' if is_ok else 'failed'}, ")
    assert all(kind in line for kind, line in zip(kinds, lines[1:], strict=True))
