"""The tables of docs/environment.md are made from the code."""

from ci.settings_table import DOCUMENT, rows_by_group, with_tables, written
from ci.workspace import ROOT


def test_the_document_is_what_the_code_says() -> None:
    text = (ROOT / DOCUMENT).read_text()
    assert with_tables(text, rows_by_group()) == text


def test_only_the_table_below_the_heading_is_replaced() -> None:
    text = "# Settings\n\n## Limits\n\n| old |\n|---|\n| x |\n\nkept\n\n## Tuning\n\n| t |\n"
    fresh = with_tables(text, {"limits": ["| `B` |\n", r"| `A` \| |" + "\n"]})
    assert "| old |" not in fresh
    assert "|---|---|---|\n| `A` \\| |\n| `B` |\n\nkept\n\n## Tuning\n\n| t |\n" in fresh


def test_defaults_are_written_as_one_sets_them() -> None:
    assert written(None) == written("") == ""
    assert [written(value) for value in (True, 60.0, 3.5, ("bf16", "fp16"))] == [
        "`1`",
        "`60`",
        "`3.5`",
        "`bf16,fp16`",
    ]
