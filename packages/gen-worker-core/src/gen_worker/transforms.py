"""Rewrites marked places inside values of a type.

The type is looked through once, so that calls visit only what matters and types without such
places cost nothing.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gen_worker.annotations import Metadata, Node, display, fields_of, node_of
from gen_worker.errors import ValidationError

__all__ = ["Leaf", "Transform", "compile_transform", "run_transform"]

Transform = Callable[[Any, Any], Any]
"""Takes a value and the caller's context; returns the same object when nothing changes."""


class Leaf(NamedTuple):
    """What `compile_transform` looks for."""

    find: Callable[[Any, Metadata], Transform | None]
    """Gives the transform of one place, from its type and the `Annotated` metadata on it."""
    marker: type
    """Metadata of this class must be used by some `find`, else the author misplaced it."""


def compile_transform(annotation: Any, leaf: Leaf) -> Transform | None:
    """Build a function that rewrites the places `leaf` finds, in values of this type.

    Values are not changed in place: what contains a rewritten value is rebuilt, the rest is shared.
    Values that do not have the annotated type are left alone.

    Returns:
        None when `leaf` finds nothing, so that such types cost nothing per call.

    Raises:
        TypeError: Markers sit on types they do not fit; the message names every field.
    """
    compiler = _Compiler(leaf)
    transform = compiler.compile(node_of(annotation), display(annotation))
    if compiler.problems:
        raise TypeError("; ".join(compiler.problems))
    return transform if compiler.has_found else None


def run_transform(transform: Transform, value: Any, context: Any = None) -> Any:
    """Run a compiled transform on a value of its type.

    Raises:
        ValidationError: The value is nested more deeply than can be followed.
    """
    try:
        return transform(value, context)
    except RecursionError:
        raise ValidationError("the value is nested too deeply") from None


class _Compiler:
    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf
        self._records: list[_RecordTransform] = []
        self.has_found = False
        self.problems: list[str] = []

    def compile(self, node: Node, path: str, inherited: Metadata = ()) -> Transform | None:
        transform, has_used_marker = self._place(node, path, (*inherited, *node.metadata))
        if not has_used_marker:
            for item in node.metadata:
                if isinstance(item, self._leaf.marker):
                    self.problems.append(f"{path}: {item!r} does not fit {display(node.type)}")
        return transform

    def _place(self, node: Node, path: str, metadata: Metadata) -> tuple[Transform | None, bool]:
        if node.kind == "union":
            members = [node_of(member, node.bindings) for member in node.children]
            placed = [self._place(m, path, (*metadata, *m.metadata)) for m in members]
            return _in_turn([part for part, _ in placed]), any(used for _, used in placed)
        found = self._leaf.find(node.type, metadata)
        self.has_found |= found is not None
        return _in_turn([found, self._inside(node, path)]), found is not None

    def _inside(self, node: Node, path: str) -> Transform | None:
        if node.kind == "record":
            return self._record(node, path)
        suffix = ".*" if node.kind == "mapping" else "[]"
        parts = [self.compile(node_of(c, node.bindings), path + suffix) for c in node.children]
        if not any(parts):
            return None
        if node.kind == "tuple":
            return _tuple_transform(parts)
        item = parts[0]
        assert item is not None, "any(parts) of one part"
        return _mapping_transform(item) if node.kind == "mapping" else _items_transform(node, item)

    def _record(self, node: Node, path: str) -> Transform | None:
        for known in self._records:
            if known.is_of(node):  # finished, or a recursive type that is still being compiled
                return known if known.parts or not known.is_complete else None
        record = _RecordTransform(node)
        self._records.append(record)
        for field in fields_of(node):
            part = self.compile(field.node, f"{path}.{field.name}")
            if part is not None:
                record.parts.append((field.name, part))
        record.is_complete = True
        return record if record.parts else None


def _in_turn(parts: list[Transform | None]) -> Transform | None:
    present = [part for part in parts if part is not None]
    if len(present) < 2:
        return present[0] if present else None

    def transform(value: Any, context: Any) -> Any:
        for part in present:
            value = part(value, context)
        return value

    return transform


def _items_transform(node: Node, part: Transform) -> Transform:
    cls = node.type

    def transform(value: Any, context: Any) -> Any:
        if not isinstance(value, cls):
            return value
        items = [part(item, context) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if cls is list else cls(items)

    return transform


def _tuple_transform(parts: list[Transform | None]) -> Transform:
    def transform(value: Any, context: Any) -> Any:
        if not isinstance(value, tuple) or len(value) != len(parts):
            return value
        pairs = zip(value, parts, strict=True)
        items = tuple(item if part is None else part(item, context) for item, part in pairs)
        is_same = all(new is old for new, old in zip(items, value, strict=True))
        return value if is_same else items

    return transform


def _mapping_transform(part: Transform) -> Transform:
    def transform(value: Any, context: Any) -> Any:
        if not isinstance(value, dict):
            return value
        changes = {key: new for key, old in value.items() if (new := part(old, context)) is not old}
        return {**value, **changes} if changes else value

    return transform


class _RecordTransform:
    """Callable on its own, because a recursive type refers to it before its fields are known."""

    def __init__(self, node: Node) -> None:
        self.parts: list[tuple[str, Transform]] = []
        self.is_complete = False
        self._node = node
        self._is_mapping = typing.is_typeddict(node.type)
        self._cls = dict if self._is_mapping else node.type
        self._replace = _replacer(node.type)

    def is_of(self, node: Node) -> bool:
        return self._node.type is node.type and self._node.bindings == node.bindings

    def __call__(self, value: Any, context: Any) -> Any:
        if not isinstance(value, self._cls):
            return value
        changes: dict[str, Any] | None = None
        for name, part in self.parts:
            if self._is_mapping:
                if name not in value:
                    continue
                old = value[name]
            else:
                old = getattr(value, name)
            new = part(old, context)
            if new is not old:
                if changes is None:
                    changes = {}
                changes[name] = new
        return value if changes is None else self._replace(value, changes)


def _replacer(cls: Any) -> Callable[[Any, dict[str, Any]], Any]:
    if typing.is_typeddict(cls):
        return lambda value, changes: {**value, **changes}
    if issubclass(cls, msgspec.Struct):
        replace = msgspec.structs.replace
        return lambda value, changes: replace(value, **changes)
    if issubclass(cls, tuple):
        return lambda value, changes: value._replace(**changes)
    return _replace_attributes


def _replace_attributes(value: Any, changes: dict[str, Any]) -> Any:
    import copy

    clone = copy.copy(value)
    for name, new in changes.items():
        object.__setattr__(clone, name, new)
    return clone
