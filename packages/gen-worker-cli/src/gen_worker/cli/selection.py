"""Which of the project's functions a command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.arguments import payload_fields, split_token
from gen_worker.cli.failures import UsageError
from gen_worker.cli.fields import primary_field
from gen_worker.cli.project import named
from gen_worker.spec import FunctionSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Selection", "display_name", "select"]


class Selection(msgspec.Struct, frozen=True):
    spec: FunctionSpec
    words: list[str]
    """The arguments, without the one that named the function."""


def select(
    functions: Sequence[FunctionSpec],
    words: Sequence[str],
    payload: Mapping[str, object],
    *,
    class_name: str | None = None,
    method: str | None = None,
) -> Selection:
    """Choose the function to call.

    `--class` and `--method` decide when given. Otherwise a first word that names a function is
    that function, unless it can only be meant as the payload's one bare value: the project has a
    single function, and nothing else gives its primary field.

    Raises:
        UsageError: No function is meant, or several are.
    """
    if class_name or method:
        return Selection(_by_option(functions, class_name, method), list(words))
    first = next(iter(words), "")
    candidate = named(functions, first)
    if candidate is not None and _is_name(candidate, functions, words, payload):
        return Selection(candidate, list(words[1:]))
    if len(functions) == 1:
        return Selection(functions[0], list(words))
    import difflib

    close = difflib.get_close_matches(first, [spec.registered_name for spec in functions], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"{hint}this endpoint has several functions, name one first: "
        + ", ".join(sorted(spec.registered_name for spec in functions))
    )


def display_name(spec: FunctionSpec) -> str:
    return f"{spec.owner.__name__}.{spec.python_name}" if spec.owner else spec.python_name


def _is_name(
    candidate: FunctionSpec,
    functions: Sequence[FunctionSpec],
    words: Sequence[str],
    payload: Mapping[str, object],
) -> bool:
    if len(functions) > 1:
        return True
    fields = payload_fields(candidate)
    primary = primary_field(fields)
    tokens = [split_token(word, fields) for word in words]
    return (
        primary is None
        or primary.name in payload
        or sum(not token.operator for token in tokens) > 1
        or any(token.key.partition(".")[0] == primary.name for token in tokens)
    )


def _by_option(
    functions: Sequence[FunctionSpec], class_name: str | None, method: str | None
) -> FunctionSpec:
    found = [
        spec
        for spec in functions
        if (class_name is None or (spec.owner is not None and spec.owner.__name__ == class_name))
        and (method is None or method in (spec.python_name, spec.registered_name, spec.name))
    ]
    if len(found) == 1:
        return found[0]
    asked = " ".join(
        f"{option} {value}"
        for option, value in (("--class", class_name), ("--method", method))
        if value
    )
    if not found:
        known = ", ".join(sorted(display_name(spec) for spec in functions))
        raise UsageError(f"no function for {asked}; available: {known}")
    several = ", ".join(sorted(f"{display_name(s)} ({s.registered_name})" for s in found))
    missing = "--method" if method is None else "--class" if class_name is None else "--method"
    raise UsageError(f"several functions for {asked}: {several}; tell them apart with {missing}")
