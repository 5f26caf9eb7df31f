"""The JSON Schema of a payload or output type, in one stable form.

The top-level type is written out, nested ones stay under `$defs`. `Clamp` bounds appear as
`minimum` and `maximum`, `AssetLimits` as `x-limits`. Descriptions of library types are dropped:
rewording them would change the hash that releases are compared by.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.annotations import annotation_of, display, fields_of, iter_places, node_of
from gen_worker.constraints import AssetLimits, Clamp
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.annotations import Metadata, Node, Place

__all__ = ["SchemaError", "json_schema", "schema_sha256"]

JsonSchema = dict[str, Any]

_PREFIX = "#/$defs/"
_LIBRARY_ROOT = "gen_worker"
_UNSUPPORTED = (TypeError, ValueError, NameError, RecursionError)


class SchemaError(WorkerError, TypeError):
    """A type cannot travel as JSON; the message names the fields that are to blame."""


def json_schema(annotation: Any) -> JsonSchema:
    """Return the JSON Schema of a type.

    Raises:
        SchemaError: It has none; every field to blame is named.
    """
    try:
        records = _records_in(annotation)
        roots = [annotation, *(annotation_of(record) for record in records)]
        (schema, *references), definitions = msgspec.json.schema_components(
            roots, ref_template=_PREFIX + "{name}"
        )
    except _UNSUPPORTED as error:
        raise SchemaError(_blame(annotation, error)) from error
    for record, reference in zip(records, references, strict=True):
        _complete(record, definitions[_name_of(reference)])
    _write(node_of(annotation), schema)
    return _inlined(schema, definitions)


def schema_sha256(schema: JsonSchema) -> str:
    """Return the hex SHA-256 of the schema as compact JSON with sorted keys, in UTF-8."""
    return hashlib.sha256(msgspec.json.encode(schema, order="sorted")).hexdigest()


def _records_in(annotation: Any) -> list[Node]:
    """List every record type inside a type once, outermost first."""
    found: list[Node] = []
    ahead = [node_of(annotation)]
    while ahead:
        node = ahead.pop(0)
        if node.kind != "record":
            ahead += [node_of(child, node.bindings) for child in node.children]
        elif not any(_is_same(node, known) for known in found):
            found.append(node)
            ahead += [field.node for field in fields_of(node)]
    return found


def _is_same(one: Node, other: Node) -> bool:
    return one.type is other.type and one.bindings == other.bindings


def _name_of(reference: JsonSchema) -> str:
    return str(reference["$ref"]).removeprefix(_PREFIX)


def _inlined(schema: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    if "$ref" in schema:
        name = _name_of(schema)
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[name], **siblings}
        if not _mentions([schema, definitions], _PREFIX + name):
            del definitions[name]
    return {**schema, "$defs": definitions} if definitions else schema


def _mentions(part: Any, reference: str) -> bool:
    if isinstance(part, dict):
        return part.get("$ref") == reference or _mentions(list(part.values()), reference)
    return isinstance(part, list) and any(_mentions(item, reference) for item in part)


def _complete(record: Node, schema: JsonSchema) -> None:
    """Write the marks of one record's own fields."""
    if record.type.__module__.partition(".")[0] == _LIBRARY_ROOT:
        schema.pop("description", None)
    fields = fields_of(record)
    if "properties" in schema:
        named = [(field, schema["properties"].get(field.encoded_name)) for field in fields]
    else:  # array-like; a tag comes first
        items = schema.get("prefixItems", [])
        named = list(zip(fields, items[len(items) - len(fields) :], strict=False))
    for field, part in named:
        if part is not None:
            _write(field.node, part)


def _write(node: Node, schema: JsonSchema, inherited: Metadata = ()) -> None:
    """Write the marks of one place, down to the records inside it."""
    metadata = (*inherited, *node.metadata)
    if node.kind == "union":
        options = list(_options(schema))
        for member in (node_of(child, node.bindings) for child in node.children):
            for option in options:
                if _fits(member, option):
                    _write(member, option, metadata)
    elif node.kind == "record":
        limits = next((m for m in reversed(metadata) if isinstance(m, AssetLimits)), None)
        if limits is not None:
            schema["x-limits"] = _limits_table(limits)
    elif node.kind == "other":
        clamp = next((m for m in reversed(metadata) if isinstance(m, Clamp)), None)
        if clamp is not None and node.type in (int, float, Any):
            for name, bound in clamp.to_json_schema(is_int=node.type is int).items():
                schema.setdefault(name, bound)
    else:
        _write_items(node, schema)


def _write_items(node: Node, schema: JsonSchema) -> None:
    if node.kind == "tuple":
        parts = schema.get("prefixItems", ())
    else:
        parts = (schema.get("items" if node.kind == "items" else "additionalProperties"),)
    for child, part in zip(node.children, parts, strict=False):
        if isinstance(part, dict):
            _write(node_of(child, node.bindings), part)


def _options(schema: JsonSchema) -> Iterator[JsonSchema]:
    if "anyOf" not in schema:
        yield schema
    for option in schema.get("anyOf", ()):
        yield from _options(option)


def _fits(member: Node, option: JsonSchema) -> bool:
    """Tell whether a union's option describes this member; msgspec allows one of each sort."""
    if member.kind == "record":
        return "$ref" in option
    if member.kind in ("items", "tuple", "mapping"):
        return option.get("type") == ("object" if member.kind == "mapping" else "array")
    return option.get("type") == {int: "integer", float: "number"}.get(member.type)


def _limits_table(limits: AssetLimits) -> dict[str, Any]:
    table = msgspec.structs.asdict(limits)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in table.items()
        if value
    }


def _blame(annotation: Any, error: Exception) -> str:
    owner = display(annotation)
    try:
        reason = "; ".join(_culprits(owner, annotation)) or str(error)
    except NameError as unknown:
        reason = f"{unknown}: define the name at the top of its module"
    return f"{owner} has no JSON schema: {reason}"


_MAX_CULPRITS = 20


def _culprits(owner: str, annotation: Any) -> list[str]:
    leaves = [
        f"{owner}.{place.path} is {display(place.type)}"
        for place in islice(iter_places(annotation, _is_culprit), _MAX_CULPRITS)
    ]
    if leaves:
        return leaves
    for record in reversed(_records_in(annotation)):  # innermost first: the outer ones only hold it
        unions = [
            f"{display(record.type)}.{field.name} is {display(field.annotation)}, "
            "a union whose members cannot be told apart: give the Structs a tag"
            for field in fields_of(record)
            if not _has_schema(field.annotation)
        ]
        if unions:
            return unions
    return []


def _is_culprit(place: Place) -> bool:
    return place.node.kind == "other" and not _has_schema(place.type)


def _has_schema(annotation: Any) -> bool:
    try:
        msgspec.json.schema_components([annotation])
    except _UNSUPPORTED:
        return False
    return True
