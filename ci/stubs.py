"""Keep every package's view of the root `gen_worker` equal to core's; `--update` rewrites them.

Core's root resolves its names at first use, from one table. Type checkers read the imports under
its `if TYPE_CHECKING`, and, where an editable tree hides core's root from them, the `__init__.pyi`
that the other packages keep next to their part. Table, imports and stubs must say the same.
"""

import ast
import importlib
import sys
from pathlib import Path

from ci.workspace import IMPORT_ROOT, ROOT, packages, report

CORE = "gen-worker-core"
TABLE = "_EXPORTS"
HEAD = '''\
"""The root as type checkers see it: written by `python -m ci.stubs --update`, never shipped."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)

'''


def main(arguments: list[str]) -> int:
    known = packages()
    imports = typed_imports((known[CORE].source / "__init__.py").read_text())
    problems = disagreements(lazy_names(), imports)
    expected = HEAD + "".join(f"{line}\n" for line in imports.values())
    for package in known.values():
        path = package.source / "__init__.pyi"
        if package.name == CORE or not package.parts:
            continue
        if "--update" in arguments:
            path.write_text(expected)
        problems += outdated(path, expected)
    return report("stubs", problems)


def lazy_names() -> dict[str, str]:
    """Return the module of each name in core's table."""
    table = vars(importlib.import_module(IMPORT_ROOT))[TABLE]
    return {name: module for name, (module, _distribution) in table.items()}


def resolves(name: str) -> bool:
    """Whether the root has the name now: the table may hold one of a later release."""
    try:
        getattr(importlib.import_module(IMPORT_ROOT), name)
    except (ImportError, AttributeError):
        return False
    return True


def typed_imports(source: str) -> dict[str, str]:
    """Return the statement under `if TYPE_CHECKING` that imports each name."""
    guards = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    statements = [
        node for guard in guards for node in guard.body if isinstance(node, ast.ImportFrom)
    ]
    return {alias.name: ast.unparse(node) for node in statements for alias in node.names}


def disagreements(table: dict[str, str], imports: dict[str, str]) -> list[str]:
    """Report the names that the table and the typed imports do not both have alike."""
    wanted = {name: f"from {table[name]} import {name} as {name}" for name in table}
    problems = [
        f"`{statement}` is under TYPE_CHECKING, {TABLE} says `{wanted.get(name, 'nothing')}`"
        for name, statement in imports.items()
        if statement != wanted.get(name)
    ]
    return problems + [
        f"type checkers do not see {name!r}: add `{wanted[name]}` under TYPE_CHECKING"
        for name in table
        if name not in imports and resolves(name)
    ]


def outdated(path: Path, expected: str) -> list[str]:
    """Report a stub that is missing or differs."""
    if path.exists() and path.read_text() == expected:
        return []
    return [f"{path.relative_to(ROOT)} is not core's root: run `python -m ci.stubs --update`"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
