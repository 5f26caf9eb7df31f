"""The closing line of a nox run counts what its sessions counted."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ci.tally import closing_line, file_stem, main

JUNIT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


def session(name: str, result: str) -> dict[str, object]:
    return {"name": name.partition("(")[0], "signatures": [name], "result": result}


def summed(
    root: Path, capsys: pytest.CaptureFixture[str], suites: dict[str, str], *sessions: object
) -> str:
    for name, text in suites.items():
        (root / f"{file_stem(name)}.xml").write_text(text)
    report = root / "report.json"
    report.write_text(json.dumps({"sessions": sessions}))
    assert main(str(root), str(report), "1.5") == 0
    return capsys.readouterr().out.strip("=\n ")


def test_counts_are_summed_over_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = {"tests(core-3.11)": JUNIT.format(10, 0, 0, 2), "workspace": JUNIT.format(5, 0, 0, 0)}
    done = [session(name, "success") for name in [*suites, "lint"]]
    assert summed(tmp_path, capsys, suites, *done) == "13 passed, 2 skipped in 1.50s"


def test_a_failed_check_without_tests_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = summed(tmp_path, capsys, {}, session("lint", "failed"), session("types", "failed"))
    assert line == "2 errors in 1.50s"


def test_a_session_that_failed_by_its_tests_counts_them_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = {"tests(core-3.11)": JUNIT.format(10, 1, 1, 0)}
    line = summed(tmp_path, capsys, suites, session("tests(core-3.11)", "failed"))
    assert line == "1 failed, 8 passed, 1 error in 1.50s"


def test_a_session_that_broke_off_after_passing_tests_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = {"tests(core-3.11)": JUNIT.format(3, 0, 0, 0)}
    line = summed(tmp_path, capsys, suites, session("tests(core-3.11)", "failed"))
    assert line == "3 passed, 1 error in 1.50s"


def test_what_passes_when_it_is_run_again_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "tests-core-3.11.xml").write_text(JUNIT.format(3, 1, 0, 0))
    suites = {"tests(core-3.11)": JUNIT.format(10, 2, 1, 1)}
    line = summed(tmp_path, capsys, suites, session("tests(core-3.11)", "failed"))
    assert line == "1 failed, 8 passed, 1 skipped, 3 rerun in 1.50s"


def test_a_run_that_crashed_and_had_nothing_to_run_again_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "tests-core-3.11.xml").write_text(JUNIT.format(0, 0, 0, 0))
    line = summed(tmp_path, capsys, {}, session("tests(core-3.11)", "failed"))
    assert line == "1 error in 1.50s"


def test_the_line_looks_like_pytests_own() -> None:
    line = closing_line(Counter(passed=3), 3725.0)
    assert " 3 passed in 3725.00s (1:02:05) " in line
    assert len(line) == 80
    assert closing_line(Counter(), 0.01).strip("= ") == "no tests ran in 0.01s"
