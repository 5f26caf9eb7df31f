"""Find decorated modules by their syntax, for projects that name no `main`."""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["modules_with_decorators"]

_DECORATORS = frozenset(
    {
        "inference_function",
        "worker_function",
        "training_function",
        "inference",
        "batched_inference",
        "training",
        "dataset",
        "conversion",
    }
)
_SKIPPED = frozenset({"venv", "__pycache__", "node_modules", "dist", "build", "site-packages"})


def modules_with_decorators(root: str) -> list[str]:
    """Return the dotted names of a directory's modules that apply an endpoint decorator, sorted.

    Nothing is imported; files that are not valid Python are left to whoever imports them.
    """
    source = os.path.join(root, "src")
    start = source if os.path.isdir(source) else root
    found = {name for path, name in _modules(start, "") if _has_decorator(path)}
    if start != root:
        found |= {
            name
            for path, name in _modules(root, "")
            if not name.startswith("src.") and _has_decorator(path)
        }
    return sorted(found)


def _modules(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if entry.name.startswith(".") or entry.name in _SKIPPED or not stem.isidentifier():
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _modules(entry.path, f"{prefix}{entry.name}.")
        elif extension == ".py" and stem != "__main__":
            name = prefix.rstrip(".") if stem == "__init__" else f"{prefix}{stem}"
            if name:
                yield entry.path, name


def _has_decorator(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        _name_of(decorator) in _DECORATORS
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        for decorator in node.decorator_list
    )


def _name_of(decorator: ast.expr) -> str:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else ""
