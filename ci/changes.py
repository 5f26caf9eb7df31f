"""Require a changelog fragment from every package whose shipped code a change touches.

Usage: python -m ci.changes [BASE]. The change is what lies between BASE (`origin/main` by default)
and the working tree. A fragment is `packages/X/changes/<slug>.<kind>.md`.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ci.workspace import ROOT, report

KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
FRAGMENT = re.compile(rf"[a-z0-9][a-z0-9-]*\.({'|'.join(KINDS)})\.md")
DEFAULT_BASE = "origin/main"


def main(arguments: list[str]) -> int:
    problems = malformed_fragments(ROOT)
    base = arguments[0] if arguments else DEFAULT_BASE
    if arguments or _exists(base):
        touched, added = _changes_since(base)
        problems += missing_fragments(touched, added)
    else:
        print(f"changes: SKIPPED the comparison: no {base} here; name a revision to compare with")
    return report("changes", problems)


def missing_fragments(touched: Iterable[str], added: Iterable[str]) -> list[str]:
    """Report the packages with a touched source file and no added fragment."""
    explained = {_package(path) for path in added if "/changes/" in path and path.endswith(".md")}
    missing = {_package(path) for path in touched if _is_shipped(path)} - explained
    return [
        f"packages/{name}/src changed: say what it means for a user in"
        f" packages/{name}/changes/<slug>.<{'|'.join(KINDS)}>.md"
        for name in sorted(missing)
    ]


def malformed_fragments(root: Path) -> list[str]:
    """Report fragments that a release could not sort into its changelog."""
    problems = []
    for path in sorted(root.glob("packages/*/changes/*")):
        shown = path.relative_to(root).as_posix()
        if path.name == ".gitkeep":
            continue
        if not FRAGMENT.fullmatch(path.name):
            problems.append(f"{shown} is not named <slug>.<{'|'.join(KINDS)}>.md")
        elif not path.read_text().strip():
            problems.append(f"{shown} is empty: write a sentence or two")
    return problems


def _is_shipped(path: str) -> bool:
    parts = PurePosixPath(path).parts
    in_source = len(parts) > 3 and parts[0] == "packages" and parts[2] == "src"
    return in_source and not path.endswith("/src/gen_worker/__init__.pyi")


def _package(path: str) -> str:
    return PurePosixPath(path).parts[1]


def _changes_since(base: str) -> tuple[list[str], list[str]]:
    """Return the paths touched since the fork from base, and those of them that are new."""
    fork = _git("merge-base", base, "HEAD")[0]
    untracked = _git("ls-files", "--others", "--exclude-standard")
    touched = _git("diff", "--name-only", "--no-renames", fork)
    added = _git("diff", "--name-only", "--no-renames", "--diff-filter=A", fork)
    return touched + untracked, added + untracked


def _exists(revision: str) -> bool:
    command = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def _git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
