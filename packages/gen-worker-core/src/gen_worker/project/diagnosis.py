"""The slow look at a wrong endpoint.toml: every mistake, with its line and a suggestion.

Imported only when something is wrong, so that a valid project starts fast.
"""

from __future__ import annotations

import re
import typing
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from gen_worker.project.checks import key_problem, short
from gen_worker.project.values import (
    EndpointFile,
    FunctionOptions,
    HostRequirements,
    Profile,
    ResourceLimits,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gen_worker.problems import Problem

__all__ = ["locate", "readable_part", "structural_problems", "with_lines"]

Table = type[msgspec.Struct]

_IN_DECORATOR = "declare it with the decorator's resources= in Python"
_IN_PAYLOAD_TYPE = "the payload type in Python says it"
# Keys that authors may still know from elsewhere, and where their meaning lives now.
_MOVED: dict[Any, dict[str, str]] = {
    EndpointFile: {
        "scaling": "declare scaling hints with Resources(...) in Python",
        "kind": "the decorator in Python decides the kind",
        "profiles": "write [[build.profiles]]",
        "env": "set environment values on the deployed endpoint",
    },
    Profile: {
        "min_vram_gb": "declare Resources(min_vram_gb=...) in Python",
        "vram_gb": "declare Resources(min_vram_gb=...) in Python",
    },
    ResourceLimits: {"min_vram_gb": "it is named vram_gb here"},
    HostRequirements: {"cuda_compute_capabilities": "it is named compute_capabilities"},
    FunctionOptions: {
        "batch_dimension_path": "it is named batch_dimension",
        "models": "write [models.<function>] at the root",
        "resources": _IN_DECORATOR,
        "runtime": _IN_DECORATOR,
        "compute_envelope": _IN_DECORATOR,
        "concurrency": "declare it with the decorator's concurrency= in Python",
        "dynamic_batching": _IN_DECORATOR,
        "max_items_per_request": _IN_PAYLOAD_TYPE,
        "request_contract": _IN_PAYLOAD_TYPE,
        "request_mode": _IN_PAYLOAD_TYPE,
        "partitioning": _IN_PAYLOAD_TYPE,
    },
}


def structural_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Return every unknown key, missing key and value of a wrong type."""
    return list(_table_problems(raw, EndpointFile, ""))


def readable_part(raw: Mapping[str, Any]) -> EndpointFile:
    """Return what can be read of a file with structural mistakes, defaults in place of the rest.

    With it the other rules are checked in the same look.
    """
    kept = _readable(raw, EndpointFile)
    return msgspec.convert({"schema_version": 1, "main": "unread", **kept}, EndpointFile)


def _readable(value: object, annotation: Any) -> Any:
    """Return the part of a value that can be converted; None when there is none."""
    annotation = _without_none(annotation)
    if _convert(value, annotation) is not None:
        return value
    if isinstance(value, dict) and _is_table(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return _readable_items(
            (key, item, hints[key]) for key, item in value.items() if key in hints
        )
    if isinstance(value, dict) and get_origin(annotation) is dict:
        item_type = get_args(annotation)[1]
        return _readable_items((key, item, item_type) for key, item in value.items())
    if isinstance(value, list) and get_args(annotation)[:1] == (Profile,):
        return [_readable_profile(index, profile) for index, profile in enumerate(value)]
    return None


def _readable_items(items: Iterable[tuple[str, object, Any]]) -> dict[str, Any]:
    parts = {key: _readable(item, annotation) for key, item, annotation in items}
    return {key: part for key, part in parts.items() if part is not None}


def _readable_profile(index: int, profile: object) -> dict[str, Any]:
    """Return a profile whatever it says, so that the others keep their index."""
    gap = {"name": f"unread-{index}", "accelerator": "cuda"}
    return {**gap, **(_readable(profile, Profile) or {})}


def _convert(value: object, annotation: Any) -> Any:
    try:
        return msgspec.convert(value, annotation)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None


def _table_problems(value: object, table: Table, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield key_problem(
            "wrong_type", path, f"{path} = {short(value)} is no table", f"write it as [{path}]"
        )
        return
    hints = typing.get_type_hints(table, include_extras=True)
    for key in value:
        if key not in hints:
            yield _unknown(table, key, path, list(hints))
    for field in msgspec.structs.fields(table):
        where = f"{path}.{field.name}" if path else field.name
        if field.name in value:
            yield from _value_problems(value[field.name], hints[field.name], where)
        elif field.required:
            yield key_problem(
                "missing_key",
                where,
                f"{where} is missing",
                f"write {field.name} = {_example(hints[field.name])}",
            )


def _unknown(table: Table, key: str, path: str, known: list[str]) -> Problem:
    import difflib

    where = f"{path}.{key}" if path else key
    moved = _MOVED.get(table, {}).get(key)
    if moved is not None:
        return key_problem("moved_key", where, f"{short(where)} is not read here", moved)
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(sorted(known))}"
    return key_problem("unknown_key", where, f"unknown key {short(where)}", hint)


def _value_problems(value: object, annotation: Any, path: str) -> Iterator[Problem]:
    annotation = _without_none(annotation)
    arguments = get_args(annotation)
    if _is_table(annotation):
        yield from _table_problems(value, annotation, path)
    elif get_origin(annotation) is tuple:
        yield from _list_problems(value, arguments[0], path)
    elif get_origin(annotation) is dict:
        yield from _map_problems(value, arguments[1], path)
    else:
        if _convert(value, annotation) is None:
            yield _wrong_value(value, annotation, path)


def _list_problems(value: object, item: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        name = path.split(".")[-1]
        hint = f"write it as [[{path}]]" if _is_table(item) else f"write {name} = [...]"
        yield key_problem("wrong_type", path, f"{path} = {short(value)} is no list", hint)
        return
    for index, element in enumerate(value):
        yield from _value_problems(element, item, f"{path}[{index}]")


def _map_problems(value: object, item: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield key_problem(
            "wrong_type", path, f"{path} = {short(value)} is no table", f"write it as [{path}]"
        )
    elif item is not Any:
        for key, element in value.items():
            yield from _value_problems(element, item, f"{path}.{key}")


def _wrong_value(value: object, annotation: Any, path: str) -> Problem:
    code = "bad_value" if _has_right_type(value, annotation) else "wrong_type"
    hint = f"write {_example(annotation)}"
    if type(value) in (int, float) and _base(annotation) is str:
        hint = f"put it in quotes, like {_example(annotation)}"
    elif _meta(annotation) is not None:
        hint = f"write it like {_example(annotation)}"
    return key_problem(code, path, f"{path} = {short(value)} is not {_expected(annotation)}", hint)


def _has_right_type(value: object, annotation: Any) -> bool:
    base = _base(annotation)
    kinds = {type(choice) for choice in get_args(base)} if get_origin(base) is Literal else {base}
    return type(value) in kinds


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _base(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (UnionType, typing.Union):
        return annotation
    (only,) = [item for item in get_args(annotation) if item is not type(None)]
    return only


def _meta(annotation: Any) -> Meta | None:
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Meta)), None)


def _expected(annotation: Any) -> str:
    meta = _meta(annotation)
    if meta is not None and meta.title:
        return meta.title
    if get_origin(annotation) is Literal:
        return " or ".join(_toml(choice) for choice in get_args(annotation) if choice != "")
    return (
        "text in quotes" if annotation is str else f"a {getattr(annotation, '__name__', 'value')}"
    )


def _example(annotation: Any) -> str:
    annotation = _without_none(annotation)
    meta = _meta(annotation)
    if meta is not None and meta.examples:
        return _toml(meta.examples[0])
    if get_origin(annotation) is Literal:
        return " or ".join(_toml(choice) for choice in get_args(annotation) if choice != "")
    return '"..."' if annotation is str else "a value of that type"


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")


def locate(problems: Iterable[Problem], text: str, file: str) -> list[Problem]:
    """Fill in file and line, and sort by line; in an inline value it is the line it begins on."""
    lines = _lines_by_key(text)
    found = [
        msgspec.structs.replace(problem, file=file, line=_line_of(problem.key, lines))
        for problem in problems
    ]
    return sorted(found, key=lambda problem: problem.line)


def with_lines(problems: Iterable[Problem], file: str) -> list[Problem]:
    """Fill in the lines of problems found after the file was read; others stay as they are."""
    found = list(problems)
    mine = [problem for problem in found if problem.file == file and not problem.line]
    if not mine:
        return found
    with open(file, encoding="utf-8-sig", errors="replace") as stream:
        located = locate(mine, stream.read(), file)
    return [*(problem for problem in found if problem not in mine), *located]


def _line_of(key: str, lines: Mapping[str, int]) -> int:
    while key and key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return lines.get(key, 0)


def _lines_by_key(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    prefix = ""
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            prefix = _plain(header[2])
            if header[1] == "[[":
                index = counts.get(prefix, 0)
                counts[prefix] = index + 1
                lines.setdefault(prefix, number)
                prefix = f"{prefix}[{index}]"
            else:
                prefix = _inside_latest(prefix, counts)
            lines.setdefault(prefix, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = _plain(assignment[1])
            lines.setdefault(f"{prefix}.{key}" if prefix else key, number)
    return lines


def _inside_latest(header: str, counts: Mapping[str, int]) -> str:
    """Turn `build.profiles.resources` into `build.profiles[1].resources`: the latest element's."""
    for array, count in counts.items():
        if header.startswith(f"{array}."):
            return f"{array}[{count - 1}]{header[len(array) :]}"
    return header


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))
