"""Fragments become the section of a release."""

from ci.changelog import inserted, released

FRAGMENTS = {
    "b.fixed.md": "Two lines\nof text.\n",
    "a.added.md": "First.\n",
    "b.added.md": "Second.\n",
}
SECTION = """\
## 0.2.0

### Added

- First.
- Second.

### Fixed

- Two lines
  of text.
"""


def test_entries_are_grouped_by_kind() -> None:
    assert released("0.2.0", FRAGMENTS) == SECTION


def test_the_newest_release_stands_first() -> None:
    first = inserted("# Changelog\n\nIntroduction.\n", "## 1\n\n- a\n")
    assert first == "# Changelog\n\nIntroduction.\n\n## 1\n\n- a\n"
    second = inserted(first, "## 2\n\n- b\n")
    assert second == "# Changelog\n\nIntroduction.\n\n## 2\n\n- b\n\n## 1\n\n- a\n"
