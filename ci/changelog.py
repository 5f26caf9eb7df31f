"""Turn a package's fragments into the next section of its changelog and set its version.

Usage: python -m ci.changelog PACKAGE VERSION
"""

import datetime
import re
import sys
from pathlib import Path

from ci.changes import KINDS, malformed_fragments
from ci.workspace import ROOT, packages, report


def main(name: str, version: str) -> int:
    package = packages()[name]
    fragments = sorted(package.path.glob("changes/*.md"))
    problems = malformed_fragments(ROOT)
    if not fragments:
        problems.append(f"{name} has no fragments: there is nothing to release")
    if problems:
        return report("changelog", problems)
    today = datetime.datetime.now(datetime.UTC).date()
    section = released(f"{version} ({today})", {path.name: path.read_text() for path in fragments})
    changelog = package.path / "CHANGELOG.md"
    changelog.write_text(inserted(changelog.read_text(), section))
    _set_version(package.path / "pyproject.toml", version)
    for path in fragments:
        path.unlink()
    print(f"{name} is now {version}; `nox -s shape` says which ranges and pins must follow")
    return 0


def released(title: str, fragments: dict[str, str]) -> str:
    """Return a release's section, its entries grouped by kind in the order of `KINDS`."""
    lines = [f"## {title}", ""]
    for kind in KINDS:
        entries = [text for name, text in sorted(fragments.items()) if name.endswith(f".{kind}.md")]
        if entries:
            lines += [f"### {kind.capitalize()}", "", *map(_entry, entries), ""]
    return "\n".join(lines)


def inserted(changelog: str, section: str) -> str:
    """Put a section above the last release's, below the file's introduction."""
    introduction, mark, rest = changelog.partition("\n## ")
    return f"{introduction.rstrip()}\n\n{section.rstrip()}\n{mark}{rest}"


def _entry(text: str) -> str:
    return "- " + "\n  ".join(text.strip().splitlines())


def _set_version(pyproject: Path, version: str) -> None:
    text = re.sub(r'^version = ".*"$', f'version = "{version}"', pyproject.read_text(), flags=re.M)
    pyproject.write_text(text)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
