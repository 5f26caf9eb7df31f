"""Reads payload annotations the way msgspec does, once per type.

`node_of` and `fields_of` go one step, `iter_places` lists everything a type is made of.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Bindings",
    "Field",
    "Metadata",
    "Node",
    "Place",
    "annotation_of",
    "display",
    "fields_of",
    "iter_places",
    "node_of",
]

Metadata = tuple[Any, ...]
Bindings = Mapping[Any, Any]
"""Type variables and what they stand for."""

NodeKind = Literal["record", "mapping", "items", "tuple", "union", "other"]

_ITEMS: dict[Any, type] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Collection: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_MAPPINGS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
_TRANSPARENT = {typing.Required, typing.NotRequired, typing.Final}


class Node(NamedTuple):
    """One step of an annotation, with aliases, `Annotated` and type variables resolved."""

    kind: NodeKind
    type: Any
    """The class; for a union the whole annotation."""
    children: tuple[Any, ...]
    """Item type, mapping value type, tuple element types or union members, not yet resolved."""
    metadata: Metadata
    bindings: Bindings


class Field(NamedTuple):
    """One field of a record type."""

    name: str
    encoded_name: str
    """What the field is called in JSON."""
    node: Node
    annotation: Any
    """As written, for messages and for msgspec."""


class Place(NamedTuple):
    """One place inside a type, other than a union."""

    path: str
    """In JSON names: `a.b` for fields, `a[]` for items, `a.*` for mapping values."""
    type: Any
    metadata: Metadata
    node: Node


def node_of(annotation: Any, bindings: Bindings = types.MappingProxyType({})) -> Node:
    """Resolve one step of `annotation`."""
    annotation, metadata, bindings = _unwrap(annotation, bindings)
    origin = typing.get_origin(annotation) or annotation
    args = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return Node("union", annotation, args, metadata, bindings)
    if origin is tuple and args and args[-1] is not ...:
        return Node("tuple", tuple, args, metadata, bindings)
    if origin is tuple:
        return Node("items", tuple, args[:1] or (Any,), metadata, bindings)
    if _is_in(origin, _ITEMS):
        return Node("items", _ITEMS[origin], args[:1] or (Any,), metadata, bindings)
    if _is_in(origin, _MAPPINGS):
        return Node("mapping", dict, args[1:] or (Any,), metadata, bindings)
    if _is_record(origin):
        return Node("record", origin, (), metadata, _arguments(annotation, bindings))
    return Node("other", annotation, (), metadata, bindings)


def _unwrap(annotation: Any, bindings: Bindings) -> tuple[Any, Metadata, Bindings]:
    metadata: Metadata = ()
    while True:
        if isinstance(annotation, typing.TypeVar):
            resolved = bindings.get(annotation, annotation.__bound__)
            annotation = Any if resolved is None or resolved is annotation else resolved
        elif (origin := typing.get_origin(annotation)) is Annotated:
            metadata = (*annotation.__metadata__, *metadata)
            annotation = annotation.__origin__
        elif _is_in(origin, _TRANSPARENT):
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        elif type(origin or annotation).__name__ == "TypeAliasType":  # `type X = …`, from 3.12 on
            bindings = _arguments(annotation, bindings)
            annotation = (origin or annotation).__value__
        else:
            return annotation, metadata, bindings


def _arguments(alias: Any, bindings: Bindings) -> Bindings:
    """Return what the type variables of `Page[int]` stand for."""
    names = getattr(typing.get_origin(alias), "__parameters__", ())
    return {
        name: bindings.get(argument, argument) if isinstance(argument, typing.TypeVar) else argument
        for name, argument in zip(names, typing.get_args(alias), strict=False)
    }


def _is_in(value: Any, group: Any) -> bool:
    try:
        return value in group
    except TypeError:  # unhashable, such as an Annotated with a list inside
        return False


def _is_record(cls: Any) -> bool:
    return isinstance(cls, type) and (
        issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__dataclass_fields__")
        or hasattr(cls, "__attrs_attrs__")
        or typing.is_typeddict(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


def fields_of(record: Node) -> tuple[Field, ...]:
    """Return the fields of a Struct, dataclass, attrs class, TypedDict or NamedTuple.

    Raises:
        NameError: An annotation names something that does not exist in its module.
    """
    cls = record.type
    hints = _hints_of(cls)
    if issubclass(cls, msgspec.Struct):
        names = zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True)
    else:
        names = zip(hints, hints, strict=True)
    bindings = _bindings_by_field(record)
    return tuple(
        Field(name, encoded, node_of(hints[name], bindings.get(name, {})), hints[name])
        for name, encoded in names
        if typing.ClassVar not in (hints[name], typing.get_origin(hints[name]))
    )


@lru_cache(maxsize=1024)
def _hints_of(cls: Any) -> dict[str, Any]:
    # Evaluating annotations written as text costs some 20 us each, and several rules ask.
    return typing.get_type_hints(cls, include_extras=True)


def _bindings_by_field(record: Node) -> dict[str, Bindings]:
    # A type variable means something else in each class of `class Cats(Page[Cat], Generic[T])`.
    by_class: dict[Any, Bindings] = {record.type: record.bindings}
    by_field: dict[str, Bindings] = {}
    for cls in record.type.__mro__:
        own = by_class.get(cls, {})
        for base in cls.__dict__.get("__orig_bases__", ()):
            by_class.setdefault(typing.get_origin(base), _arguments(base, own))
        for name in getattr(cls, "__annotations__", ()):
            by_field.setdefault(name, own)
    return by_field


def annotation_of(record: Node) -> Any:
    """Return the type a record was written as, its type arguments included."""
    names = getattr(record.type, "__parameters__", ())
    if not record.bindings:
        return record.type
    return record.type[tuple(record.bindings.get(name, Any) for name in names)]


def display(annotation: Any) -> str:
    """Name a type as an author wrote it."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def iter_places(
    annotation: Any, is_wanted: Callable[[Place], bool] | None = None
) -> Iterator[Place]:
    """Yield the places inside a type, outermost first; a recursive type is entered once per path.

    Args:
        annotation: The type.
        is_wanted: Yield only these, in time linear in the type and in what is yielded; None yields
            all, whose number is exponential in types that are shared many ways. It is asked
            without paths.
    """
    root = node_of(annotation)
    barren = frozenset() if is_wanted is None else _barren_records(root, is_wanted)
    for place in _places(root, "", frozenset(), barren):
        if is_wanted is None or is_wanted(place):
            yield place


def _places(
    node: Node, path: str, outer: frozenset[Any], barren: frozenset[Any]
) -> Iterator[Place]:
    for place in _steps(node, path, ()):
        yield place
        if place.node.kind != "record" or place.type in outer or _key(place.node) in barren:
            continue
        for field in fields_of(place.node):
            inner = f"{place.path}.{field.encoded_name}".lstrip(".")
            yield from _places(field.node, inner, outer | {place.type}, barren)


def _steps(node: Node, path: str, inherited: Metadata) -> Iterator[Place]:
    """Yield the places up to the next records, and these, but nothing inside them."""
    metadata = (*inherited, *node.metadata)
    if node.kind == "union":
        for member in node.children:
            yield from _steps(node_of(member, node.bindings), path, metadata)
        return
    yield Place(path, node.type, metadata, node)
    inner = path + (".*" if node.kind == "mapping" else "[]")
    for item in node.children:
        yield from _steps(node_of(item, node.bindings), inner, ())


_MAX_FORMS = 64
"""A generic record with more forms than this grows without end, as `a: "A[list[T]]"` of A does."""


def _barren_records(root: Node, is_wanted: Callable[[Place], bool]) -> frozenset[Any]:
    """Return the keys of the records in which there is no wanted place, however deep."""
    holders: dict[Any, set[Any]] = {}  # by record: those which it is a field of
    forms: dict[Any, int] = {}
    fruitful: set[Any] = set()
    records = [place.node for place in _steps(root, "", ()) if place.node.kind == "record"]
    ahead = [(_key(record), record) for record in records]
    seen = {key for key, _ in ahead}
    while ahead:
        key, record = ahead.pop()
        forms[record.type] = forms.get(record.type, 0) + 1
        if forms[record.type] > _MAX_FORMS:
            fruitful.add(key)
            continue
        for place in _inside(record):
            if is_wanted(place):
                fruitful.add(key)
            if place.node.kind == "record":
                inner = _key(place.node)
                holders.setdefault(inner, set()).add(key)
                if inner not in seen:
                    seen.add(inner)
                    ahead.append((inner, place.node))
    spreading = list(fruitful)
    while spreading:
        new = holders.get(spreading.pop(), set()) - fruitful
        fruitful |= new
        spreading += new
    return frozenset(seen - fruitful)


def _inside(record: Node) -> Iterator[Place]:
    for field in fields_of(record):
        yield from _steps(field.node, "", ())


def _key(record: Node) -> Any:
    """Return what tells a record from others; one that cannot be hashed is itself alone."""
    key = (record.type, *record.bindings.values())
    try:
        hash(key)
    except TypeError:
        return object()
    return key
