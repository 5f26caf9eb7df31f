"""Python names and literals for what hosts call things."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = [
    "class_name",
    "docstring",
    "literal",
    "members",
    "method_name",
    "unique",
    "variable_name",
    "without_texts",
]

_ODD = re.compile(r"[^A-Za-z0-9]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TEXT = re.compile(r'"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\])*"', re.DOTALL)
_RESERVED = frozenset(
    # What annotations in the same class body mean something else by.
    ("bool", "bytes", "datetime", "decimal", "dict", "float", "int", "list", "msgspec", "str")
)
_RESERVED |= {"tuple", "uuid"}
_TAKEN_METHODS = frozenset(("self",))


def variable_name(text: str) -> str:
    """Return a name for a field; the same where that is possible."""
    name = text if text.isascii() and text.isidentifier() else _ODD.sub("_", text).strip("_")
    if not name or not (name[0].isalpha() or name[0] == "_"):
        name = f"field_{name}".rstrip("_")
    if name.startswith("__"):  # would be changed by the class it is in
        name = f"field{name}"
    # Classes have capitals, and are meant by the annotations of the same class body.
    is_other = keyword.iskeyword(name) or name in _RESERVED or name[0].isupper()
    return f"{name}_" if is_other else name


def method_name(text: str) -> str:
    """Return a name for a function."""
    name = variable_name(_ODD.sub("_", _HUMPS.sub("_", text)).strip("_").lower())
    return f"call{name}" if name.startswith("_") or name in _TAKEN_METHODS else name


def class_name(*texts: str) -> str:
    """Return a name for a class, of several words."""
    words = [word for text in texts for word in _ODD.sub(" ", text).split()]
    name = "".join(word[0].upper() + word[1:] for word in words)
    if not name or name[0].isdigit():
        name = f"Type{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def unique(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken yet."""
    number, found = 2, name
    while found in taken:
        found = f"{name}{'_' if name[-1].isdigit() else ''}{number}"
        number += 1
    return found


def literal(value: str | float | bool | None) -> str:
    """Return what a value is written as."""
    return f'"{_escaped(value)}"' if isinstance(value, str) else repr(value)


def without_texts(source: str) -> str:
    """Return source without its strings, which may say anything."""
    return _TEXT.sub("", source)


def members(annotation: str) -> list[str]:
    """Return what a union consists of; of anything else itself."""
    blank = _TEXT.sub(lambda found: "_" * len(found[0]), annotation)
    parts, start, depth = [], 0, 0
    for index, char in enumerate(blank):
        depth += (char == "[") - (char == "]")
        if char == "|" and not depth:
            parts.append(annotation[start:index].strip())
            start = index + 1
    return [*parts, annotation[start:].strip()]


def docstring(text: str, indent: str) -> list[str]:
    """Return the lines of a docstring."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    shown = [_escaped(line.expandtabs(4), is_quoting=False) for line in lines]
    if shown and shown[-1].endswith('"'):
        shown[-1] = f'{shown[-1][:-1]}\\"'
    if not shown:
        return []
    if len(shown) == 1:
        return [f'{indent}"""{shown[0]}"""']
    body = [f"{indent}{line}" if line else "" for line in shown[1:]]
    return [f'{indent}"""{shown[0]}', *body, f'{indent}"""']


def _escaped(text: str, *, is_quoting: bool = True) -> str:
    """Return a text that means itself between double quotes, one or three of them."""
    shown = "".join(
        f"\\{char}"
        if char == "\\" or (char == '"' and is_quoting)
        else char
        if char.isprintable()
        else repr(char)[1:-1]
        for char in text
    )
    return shown if is_quoting else shown.replace('"""', '\\"\\"\\"')
