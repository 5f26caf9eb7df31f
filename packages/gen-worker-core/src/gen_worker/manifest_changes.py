"""What differs between two locks, and which differences break callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Change", "changes_between"]

Direction = Literal["input", "output"]
Schema = dict[str, Any]

_SCHEMAS: dict[str, Direction] = {
    "input_schema": "input",
    "output_schema": "output",
    "delta_output_schema": "output",
}
_DERIVED = frozenset(
    {"payload_schema_sha256", "output_schema_sha256", "delta_schema_sha256", "incremental_output"}
)
_UNCOMPARED = frozenset({"functions", "content_sha256", "sdk_version"})
# For each bound: whether a larger value allows less.
_BOUNDS = {
    "minimum": True,
    "exclusiveMinimum": True,
    "minLength": True,
    "minItems": True,
    "minProperties": True,
    "maximum": False,
    "exclusiveMaximum": False,
    "maxLength": False,
    "maxItems": False,
    "maxProperties": False,
}


class Change(NamedTuple):
    """One difference."""

    where: str
    """`paint.input_schema.steps`, or a key of the lock itself."""
    what: str
    is_breaking: bool = False
    """Whether a caller that worked before may fail now."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}{' (breaking)' if self.is_breaking else ''}"


def changes_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return every difference between two locks' tables; empty when they mean the same.

    The SDK's version is no difference.
    """
    changes = [
        Change(key, _what(old.get(key), new.get(key)))
        for key in dict.fromkeys([*old, *new])
        if key not in _UNCOMPARED and old.get(key) != new.get(key)
    ]
    before = {function.get("name", ""): function for function in old.get("functions", ())}
    after = {function.get("name", ""): function for function in new.get("functions", ())}
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            changes.append(Change(name, "function removed", True))
        elif name not in before:
            changes.append(Change(name, "function added"))
        else:
            changes += _function_changes(name, before[name], after[name])
    if not changes and list(before) != list(after):
        changes.append(Change("functions", "their order changed"))
    return changes


def _what(old: object, new: object) -> str:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if isinstance(old, (dict, list)) or isinstance(new, (dict, list)):
        return "changed"
    return f"changed from {old!r} to {new!r}"


def _function_changes(name: str, old: Schema, new: Schema) -> Iterator[Change]:
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before == after or key in _DERIVED:
            continue
        where = f"{name}.{key}"
        if key in _SCHEMAS and before is not None and after is not None:
            comparison = _Comparison(_SCHEMAS[key], before, after)
            found = list(comparison.changes(before, after, where))
            yield from found or [Change(where, "its texts changed")]
        else:
            is_breaking = key == "output_mode" or (key in _SCHEMAS and after is None)
            yield Change(where, _what(before, after), is_breaking)


class _Comparison:
    """Compares two schemas; what narrows an input or widens an output breaks callers."""

    def __init__(self, direction: Direction, old: Schema, new: Schema) -> None:
        self._is_input = direction == "input"
        self._old_defs = old.get("$defs", {})
        self._new_defs = new.get("$defs", {})
        self._seen: set[tuple[str, str]] = set()

    def changes(self, old: Schema, new: Schema, where: str) -> Iterator[Change]:
        references = (str(old.get("$ref")), str(new.get("$ref")))
        if references != ("None", "None"):
            if references in self._seen:
                return
            self._seen.add(references)
        old, new = _resolved(old, self._old_defs), _resolved(new, self._new_defs)
        yield from self._kind(old, new, where)
        yield from self._bounds(old, new, where)
        yield from self._fields(old, new, where)
        for key in ("items", "additionalProperties"):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                yield from self.changes(old[key], new[key], f"{where}[]")
            elif old.get(key) != new.get(key):
                yield Change(where, f"{key} {_what(old.get(key), new.get(key))}", True)

    def _kind(self, old: Schema, new: Schema, where: str) -> Iterator[Change]:
        if old.get("type") != new.get("type"):
            yield Change(where, f"type {_what(old.get('type'), new.get('type'))}", True)
        if old.get("enum") != new.get("enum"):
            before, after = set(old.get("enum", ())), set(new.get("enum", ()))
            gone, come = sorted(before - after, key=str), sorted(after - before, key=str)
            if gone:
                yield Change(where, f"values removed: {gone}", self._is_input)
            if come:
                yield Change(where, f"values added: {come}", not self._is_input)
        for key in ("anyOf", "prefixItems", "pattern", "format", "const"):
            if old.get(key) != new.get(key):
                yield Change(where, f"{key} {_what(old.get(key), new.get(key))}", True)
        if old.get("default") != new.get("default"):
            yield Change(where, f"default {_what(old.get('default'), new.get('default'))}")

    def _bounds(self, old: Schema, new: Schema, where: str) -> Iterator[Change]:
        for key, is_lower in _BOUNDS.items():
            before, after = old.get(key), new.get(key)
            if before == after:
                continue
            # A missing bound allows more than any.
            is_narrower = before is None or (after is not None and (after > before) == is_lower)
            yield Change(where, f"{key} {_what(before, after)}", is_narrower == self._is_input)

    def _fields(self, old: Schema, new: Schema, where: str) -> Iterator[Change]:
        before, after = old.get("properties", {}), new.get("properties", {})
        was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
        for name in dict.fromkeys([*before, *after]):
            place = f"{where}.{name}"
            if name not in after:
                yield Change(place, "field removed", True)
            elif name not in before:
                must = " and required" if name in is_required else ""
                is_breaking = bool(must) and self._is_input
                yield Change(place, f"field added{must}", is_breaking)
            else:
                if name in is_required - was_required:
                    yield Change(place, "became required", self._is_input)
                elif name in was_required - is_required:
                    yield Change(place, "became optional", not self._is_input)
                yield from self.changes(before[name], after[name], place)


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return {**definitions.get(name, {}), **schema} if name else schema
