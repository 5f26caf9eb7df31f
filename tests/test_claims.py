"""The documents' promises and the tests that claim to keep them agree."""

from pathlib import Path

import pytest

from ci.claims import DOCUMENTS, claims, problems, promises
from ci.workspace import ROOT


def test_every_promise_of_the_documents_is_claimed_by_a_test() -> None:
    assert problems(ROOT) == []


TABLES = """
| flag | meaning |
|---|---|
| `--pretty` | not a promise |

| id | behaviour |
|---|---|
| `run.exit-2` | a usage error |
| `run.raw` and `run.events` | two switches |

| Code | meaning |
|:--|--:|
|`2`| usage |
"""


def test_only_tables_headed_for_promises_are_read() -> None:
    names = [name for _, name in promises(TABLES, "id")]
    assert names == ["run.exit-2", "run.raw", "run.events"]


def test_a_promise_is_found_on_its_line() -> None:
    assert promises(TABLES, "code") == [(13, "2")]


@pytest.mark.parametrize(
    "source",
    [
        '@pytest.mark.claims("a", "b")\ndef test(): ...',
        '@mark.claims("a")\n@mark.claims("b")\ndef test(): ...',
        'pytestmark = [pytest.mark.claims("a", "b")]',
        'pytest.param(1, marks=pytest.mark.claims("a", "b"))',
    ],
)
def test_claims_are_read_wherever_a_marker_may_stand(source: str) -> None:
    assert {name for _, name in claims(source)} == {"a", "b"}


def write(root: Path, documents: dict[str, str], test: str) -> None:
    for path, text in {**documents, "tests/test_it.py": test}.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)


ALL = {
    path: f"| {heading} |\n|---|\n| `{Path(path).stem}` |\n" for path, heading in DOCUMENTS.items()
}
CLI = "docs/cli.md"
CLAIMED = '@pytest.mark.claims("cli", "error-codes", "environment")\ndef test(): ...'


def test_documents_and_claims_that_agree_are_no_problem(tmp_path: Path) -> None:
    write(tmp_path, ALL, CLAIMED)
    assert problems(tmp_path) == []


def test_a_promise_without_a_claim_is_reported_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, ALL, CLAIMED.replace('"cli", ', ""))
    (problem,) = problems(tmp_path)
    assert problem.startswith("docs/cli.md:3: no test claims 'cli'")


def test_a_claim_of_nothing_promised_is_reported_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, ALL, CLAIMED.replace('"cli"', '"cli", "cil"'))
    (problem,) = problems(tmp_path)
    assert problem.startswith("tests/test_it.py:1: 'cil' is claimed")


def test_a_missing_document_may_hold_any_claim(tmp_path: Path) -> None:
    write(tmp_path, {CLI: ALL[CLI]}, CLAIMED)
    assert problems(tmp_path) == []


def test_a_document_whose_tables_are_not_read_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, {**ALL, CLI: "| what |\n|---|\n| `cli` |\n"}, CLAIMED)
    assert any("first column is headed 'id'" in problem for problem in problems(tmp_path))


def test_a_promise_made_twice_is_a_problem(tmp_path: Path) -> None:
    twice = "| id |\n|---|\n| `cli` |\n| `cli` |\n"
    write(tmp_path, {**ALL, CLI: twice}, CLAIMED)
    (problem,) = problems(tmp_path)
    assert problem.startswith("docs/cli.md:4: 'cli' is promised here and in docs/cli.md:3")
