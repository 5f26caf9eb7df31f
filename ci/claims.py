"""Compare the promises of the documents with the tests that say they keep them.

A promise is a row of a table whose first column holds its backticked name under the heading which
`DOCUMENTS` gives; a test keeps it with `@pytest.mark.claims("name", ...)`. Both are read without
importing anything, so the whole workspace is compared in any environment.
"""

import ast
import re
from pathlib import Path

DOCUMENTS = {"docs/cli.md": "id", "docs/error-codes.md": "code", "docs/environment.md": "variable"}
TESTS = ("packages/*/tests/**/*.py", "examples/*/tests/**/*.py", "tests/**/*.py")
MARKER = "claims"

Places = dict[str, list[str]]


def problems(root: Path) -> list[str]:
    """Report promises no test claims, claims of nothing promised, and repeated promises."""
    documents = [path for path in DOCUMENTS if (root / path).exists()]
    promised: Places = {}
    for path in documents:
        _collect(promised, path, promises((root / path).read_text(), DOCUMENTS[path]))
    claimed: Places = {}
    for module in sorted({module for pattern in TESTS for module in root.glob(pattern)}):
        _collect(claimed, module.relative_to(root).as_posix(), claims(module.read_text()))
    read = {place.rpartition(":")[0] for places in promised.values() for place in places}
    return [
        *(_unread(path) for path in documents if path not in read),
        *(_unkept(name, promised[name]) for name in sorted(promised.keys() - claimed.keys())),
        *(_twice(name, places) for name, places in promised.items() if len(places) > 1),
        # While a document is missing, a claim may be one of its promises.
        *(
            _unknown(name, claimed[name])
            for name in sorted(claimed.keys() - promised.keys())
            if len(documents) == len(DOCUMENTS)
        ),
    ]


def promises(markdown: str, heading: str) -> list[tuple[int, str]]:
    """Return the line and name of every promise in the tables with this first heading."""
    found: list[tuple[int, str]] = []
    table = inside = False  # in any table, in one of promises
    for number, line in enumerate(markdown.splitlines(), start=1):
        first = _first_cell(line)
        if first is None:
            table = inside = False
        elif not table:
            table, inside = True, first.strip("`* ").lower() == heading
        elif inside:
            found += [(number, name) for name in re.findall(r"`([^`]+)`", first)]
    return found


def claims(source: str) -> list[tuple[int, str]]:
    """Return the line and name of every claim in a test module."""
    return [
        (argument.lineno, argument.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _is_marker(node.func)
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def _is_marker(function: ast.expr) -> bool:
    """Whether this is `pytest.mark.claims` or `mark.claims`."""
    return ast.unparse(function) in (f"pytest.mark.{MARKER}", f"mark.{MARKER}")


def _first_cell(line: str) -> str | None:
    cells = line.strip()
    return cells[1:].split("|", 1)[0].strip() if cells.startswith("|") else None


def _collect(places: Places, path: str, found: list[tuple[int, str]]) -> None:
    for line, name in found:
        places.setdefault(name, []).append(f"{path}:{line}")


def _unkept(name: str, places: list[str]) -> str:
    return f"{places[0]}: no test claims {name!r}: mark one with @pytest.mark.claims({name!r})"


def _unknown(name: str, places: list[str]) -> str:
    return f"{places[0]}: {name!r} is claimed, but no table of {', '.join(DOCUMENTS)} has it"


def _twice(name: str, places: list[str]) -> str:
    return f"{places[1]}: {name!r} is promised here and in {places[0]}: name each promise once"


def _unread(path: str) -> str:
    return f"{path}: no table's first column is headed {DOCUMENTS[path]!r} and holds `names`"
