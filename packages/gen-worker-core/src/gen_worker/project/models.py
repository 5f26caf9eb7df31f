"""`[models]`: refs by key for any function, and per function for its payload to choose from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.names import slugify_name
from gen_worker.project.checks import Keyspaces, key_problem, short
from gen_worker.project.values import ModelEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.problems import Problem

__all__ = ["MODEL_ENTRY_SCHEMA", "parse_keyspaces"]

_SEGMENT = "[a-z0-9][a-z0-9._-]*"
_REF = re.compile(rf"{_SEGMENT}/{_SEGMENT}(:{_SEGMENT}|@([a-z0-9]+:)?[a-z0-9]+)?")
_VALUES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_FLAVOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# Spellings of one attribute before `attributes` existed.
_OLDER_ATTRIBUTES = ("flavor", "dtype", "file_layout", "file_type")
_ENTRY_KEYS = ("ref", "attributes", "flavors", *_OLDER_ATTRIBUTES)


MODEL_ENTRY_SCHEMA = {
    "description": "A model: its ref, or a table with the ref and wishes in order of preference.",
    "anyOf": [
        {"type": "string", "pattern": f"^{_REF.pattern}(#.+)?$"},
        {
            "type": "object",
            "required": ["ref"],
            "additionalProperties": False,
            "properties": {
                "ref": {"type": "string", "pattern": f"^{_REF.pattern}(#.+)?$"},
                "attributes": {"type": "object", "additionalProperties": _VALUES},
                "flavors": {**_VALUES, "description": "Older form of attributes.flavor."},
                **{
                    key: {**_VALUES, "description": f"Older form of attributes.{key}."}
                    for key in _OLDER_ATTRIBUTES
                },
            },
        },
    ],
}
"""What `parse_keyspaces` accepts as an entry."""


def parse_keyspaces(models: Mapping[str, Any]) -> Keyspaces:
    """Read `[models]` and collect what is wrong with it.

    A table without `ref`, `attributes` and `dtypes` is the keyspace of the function it is named
    after; everything else is an entry any function may use.
    """
    spaces = Keyspaces(fixed={}, by_function={}, problems=[])
    for key, value in models.items():
        path = f"models.{key}"
        if not isinstance(value, dict) or value.keys() & {"ref", "attributes", "dtypes"}:
            _add_entry(spaces, spaces.fixed, key, value, path)
            continue
        slug = slugify_name(key)
        if not slug:
            spaces.problems.append(key_problem("empty_slug", path, f"[{path}] names no function"))
        elif slug in spaces.by_function:
            message = f"[{path}] repeats the keyspace of function {slug!r}"
            spaces.problems.append(key_problem("duplicate_function", path, message, "merge them"))
        else:
            keyspace = spaces.by_function[slug] = {}
            for name, entry in value.items():
                _add_entry(spaces, keyspace, name, entry, f"{path}.{name}")
    return spaces


def _add_entry(
    spaces: Keyspaces, keyspace: dict[str, ModelEntry], key: str, value: object, path: str
) -> None:
    problems: list[Problem] = []
    if not key.strip():
        problems.append(key_problem("bad_value", path, f"{path} has an empty key"))
    if isinstance(value, str):
        entry = _entry({"ref": value}, path, problems)
    elif isinstance(value, dict):
        entry = _entry(value, path, problems)
    else:
        message = f"{path} = {short(value)} is no model"
        problems.append(key_problem("wrong_type", path, message, 'write "owner/repo"'))
        entry = ModelEntry(ref="")
    keyspace[key] = entry
    spaces.problems += problems


def _entry(table: Mapping[str, Any], path: str, problems: list[Problem]) -> ModelEntry:
    problems += [_unknown(key, path) for key in table if key not in _ENTRY_KEYS]
    ref, _, flavor = _text(table.get("ref"), f"{path}.ref", problems).partition("#")
    if ref and not _REF.fullmatch(ref):
        problems.append(_bad_ref(f"{path}.ref", ref))
    attributes = _attributes(table, path, problems)
    has_flavor = "flavor" in table or "flavors" in table
    if "#" in str(table.get("ref", "")):
        if has_flavor or not _FLAVOR.fullmatch(flavor):
            message = f"{path}.ref names the flavor {flavor!r}"
            hint = "name one flavor once, best as attributes.flavor"
            problems.append(key_problem("bad_ref", f"{path}.ref", message, hint))
        attributes.setdefault("flavor", (flavor,))
    several = [name for name, values in attributes.items() if len(values) > 1]
    if len(several) > 1:
        message = f"{path} gives several values for {' and '.join(several)}"
        hint = "only one attribute may have more than one value"
        problems.append(key_problem("bad_attributes", f"{path}.attributes", message, hint))
    return ModelEntry(ref=ref, attributes=attributes)


def _unknown(key: str, path: str) -> Problem:
    where = f"{path}.{key}"
    if key == "dtypes":
        return key_problem("moved_key", where, f"{where} is not read", "write attributes.dtype")
    hint = f"known keys are {', '.join(_ENTRY_KEYS)}"
    return key_problem("unknown_key", where, f"unknown key {short(where)}", hint)


def _text(value: object, path: str, problems: list[Problem]) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    message = f"{path} is missing" if value is None else f"{path} = {short(value)} is no ref"
    problems.append(key_problem("bad_ref", path, message, 'write "owner/repo"'))
    return ""


def _bad_ref(path: str, ref: str) -> Problem:
    hint = "write owner/repo, owner/repo:tag or owner/repo@digest"
    if _REF.fullmatch(ref.lower()):
        hint = f"refs are lower-case, write {ref.lower()!r}"
    elif _REF.fullmatch(ref.partition(":")[2]):
        hint = f"a ref has no provider prefix, write {ref.partition(':')[2]!r}"
    return key_problem("bad_ref", path, f"{path} = {short(ref)} is no ref", hint)


def _attributes(
    table: Mapping[str, Any], path: str, problems: list[Problem]
) -> dict[str, tuple[str, ...]]:
    declared = table.get("attributes", {})
    if not isinstance(declared, dict):
        message = f"{path}.attributes = {short(declared)} is no table"
        problems.append(key_problem("wrong_type", f"{path}.attributes", message))
        declared = {}
    given = {f"attributes.{key}": value for key, value in declared.items()}
    given |= {key: table[key] for key in _OLDER_ATTRIBUTES if key in table}
    if "flavors" in table:
        given["flavors"] = table["flavors"]
    if "flavor" in table and "flavors" in table:
        message = f"{path} has both flavor and flavors"
        problems.append(key_problem("bad_attributes", path, message, "keep attributes.flavor"))
    attributes: dict[str, tuple[str, ...]] = {}
    for key, value in given.items():
        name = key.removeprefix("attributes.").strip()
        name = "flavor" if key == "flavors" else name
        attributes.setdefault(name, _values(value, f"{path}.{key}", name, problems))
    return attributes


def _values(value: object, path: str, name: str, problems: list[Problem]) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    texts = [item.strip() for item in items if isinstance(item, str)]
    if not name or not texts or not all(texts) or len(texts) < len(items):
        hint = "give a text, or a list of them in order of preference"
        message = f"{path} = {short(value)} is no attribute value"
        problems.append(key_problem("bad_attributes", path, message, hint))
        return ()
    return tuple(dict.fromkeys(texts))
