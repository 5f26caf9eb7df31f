"""What a function's payload may hold, seen from the command line."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.annotations import Node, fields_of, node_of
from gen_worker.types import StoredFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.spec import FunctionSpec

__all__ = [
    "OPEN",
    "Field",
    "children",
    "element_of",
    "is_enum",
    "is_file",
    "is_open",
    "members",
    "payload_fields",
    "primary_field",
    "struct_fields",
]

OPEN = node_of(Any)
"""A value of any type."""

_NONE = type(None)


class Field(msgspec.Struct, frozen=True):
    """One value at the top level of a payload."""

    name: str
    """As it is spelled in JSON."""
    node: Node
    is_required: bool
    python_name: str
    """As it is spelled in the author's code; differs from `name` under `rename=`."""


def payload_fields(spec: FunctionSpec) -> tuple[Field, ...]:
    """Return what a function's payload may hold, in the order it was declared."""
    if spec.payload_type is not None:
        return struct_fields(spec.payload_type)
    from gen_worker.endpoint.job_record import request_type_of

    return struct_fields(request_type_of(spec))


def struct_fields(struct: Any) -> tuple[Field, ...]:
    record = node_of(struct)
    required = {field.name for field in msgspec.structs.fields(record.type) if field.required}
    return tuple(
        Field(field.encoded_name, field.node, field.name in required, field.name)
        for field in fields_of(record)
    )


def primary_field(fields: Sequence[Field]) -> Field | None:
    """Return the field a bare value goes to: the first required text, else required, else first."""
    required = [field for field in fields if field.is_required]
    texts = [field for field in required if field.node.type is str]
    return next(iter([*texts, *required, *fields]), None)


def members(node: Node) -> tuple[Node, ...]:
    """Return the members of a union, in order; of anything else, itself."""
    if node.kind != "union":
        return (node,)
    return tuple(m for child in node.children for m in members(node_of(child, node.bindings)))


def element_of(node: Node, index: int) -> Node | None:
    """Return the type of item `index` where `node` is a list of some kind, else None.

    An optional list counts; a union of a list with other types does not.
    """
    present = [member for member in members(node) if member.type is not _NONE]
    if len(present) != 1 or present[0].kind not in ("items", "tuple"):
        return None
    items = present[0]
    if not items.children:
        return OPEN
    return node_of(items.children[min(index, len(items.children) - 1)], items.bindings)


def children(node: Node) -> dict[str, Node] | None:
    """Return the keys below a value and their types.

    The key `*` allows any other name. None means that the value has no keys.
    """
    found: dict[str, Node] = {}
    for member in members(node):
        if member.kind == "record" and not _is_array(member.type):
            for field in fields_of(member):
                found[field.encoded_name] = field.node
        elif member.kind == "mapping":
            inner = (node_of(child, member.bindings) for child in member.children)
            found["*"] = next(inner, OPEN)
        elif is_open(member):
            found["*"] = OPEN
    return found or None


def _is_array(record: Any) -> bool:
    """Whether JSON spells this record as a list."""
    config = getattr(record, "__struct_config__", None)
    return issubclass(record, tuple) or bool(config and config.array_like)


def is_open(node: Node) -> bool:
    return node.type is Any or node.type is object or node.type is msgspec.Raw


def is_file(node: Node) -> bool:
    """Whether it is one of the Asset family or `Tensors`."""
    return node.kind == "record" and issubclass(node.type, StoredFile)


def is_enum(node: Node) -> bool:
    return isinstance(node.type, type) and issubclass(node.type, enum.Enum)
