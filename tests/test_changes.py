"""A package whose shipped code changes tells its users so."""

from pathlib import Path

import pytest

from ci.changes import malformed_fragments, missing_fragments

SOURCE = "packages/gen-worker-core/src/gen_worker/names.py"
FRAGMENT = "packages/gen-worker-core/changes/slugs.added.md"


def test_changed_source_needs_a_new_fragment() -> None:
    (problem,) = missing_fragments([SOURCE], [])
    assert problem.startswith("packages/gen-worker-core/src changed")


def test_a_new_fragment_explains_the_change() -> None:
    assert missing_fragments([SOURCE, FRAGMENT], [FRAGMENT]) == []


def test_an_older_fragment_does_not_explain_the_change() -> None:
    assert missing_fragments([SOURCE, FRAGMENT], []) != []


def test_another_packages_fragment_does_not_explain_the_change() -> None:
    other = FRAGMENT.replace("-core", "-models")
    assert missing_fragments([SOURCE, other], [other]) != []


@pytest.mark.parametrize(
    "path",
    [
        "packages/gen-worker-core/tests/test_names.py",
        "packages/gen-worker-core/README.md",
        "packages/gen-worker-cli/src/gen_worker/__init__.pyi",
        "docs/cli.md",
        "noxfile.py",
    ],
)
def test_what_is_not_shipped_needs_no_fragment(path: str) -> None:
    assert missing_fragments([path], []) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("slugs.md", "Slugs.", "is not named"),
        ("slugs.new.md", "Slugs.", "is not named"),
        ("Slugs.added.md", "Slugs.", "is not named"),
        ("slugs.added.md", " \n", "is empty"),
    ],
)
def test_a_fragment_a_release_cannot_use_is_reported(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    path = tmp_path / "packages" / "some" / "changes" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (problem,) = malformed_fragments(tmp_path)
    assert problem.startswith(f"packages/some/changes/{name} {complaint}")
