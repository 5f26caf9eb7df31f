"""From JSON Schemas to annotations, and the Structs that these need."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gen_worker import types as values
from gen_worker.client.stubs.names import (
    class_name,
    docstring,
    literal,
    members,
    unique,
    variable_name,
)

__all__ = ["FILES", "Direction", "Shapes", "has_required"]

Schema = dict[str, Any]

_PREFIX = "#/$defs/"
_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_FORMATS = {
    "date-time": "datetime.datetime",
    "date": "datetime.date",
    "time": "datetime.time",
    "duration": "datetime.timedelta",
    "uuid": "uuid.UUID",
    "decimal": "decimal.Decimal",
}
_KINDS: dict[str, type] = {"str": str, "bool": bool, "int": int, "float": float}
FILES = ("Asset", "MediaAsset", "ImageAsset", "VideoAsset", "AudioAsset", "Tensors")
"""Classes of `gen_worker.types` that stand for files."""
_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "less than"),
)
_MAX_DEPTH = 100


class Direction(NamedTuple):
    """Whether a value goes to the host or comes from it, and what to call what has no name."""

    is_input: bool
    owner: str
    """The function's name, as a class would be named."""
    fallback: str


class _Struct(NamedTuple):
    name: str
    lines: list[str]


class Shapes:
    """The types of one module. Equal ones are written once, whoever uses them."""

    def __init__(self, taken: set[str]) -> None:
        """Begin with none.

        Args:
            taken: Names that stand for something else.
        """
        self.files: set[str] = set()
        """Names of `gen_worker.types` that are used."""
        self._taken = taken
        self._names: dict[bytes, str] = {}
        self._structs: list[_Struct] = []

    def lines(self) -> list[str]:
        """Return the text of all Structs, in the order of their names."""
        found: list[str] = []
        for struct in sorted(self._structs):
            found += ["", "", *struct.lines]
        return found

    def annotation(self, schema: Schema, direction: Direction) -> str:
        """Return the type of values that a schema describes; `Any` where Python has no other."""
        definitions = schema.get("$defs")
        known = definitions if isinstance(definitions, dict) else {}
        own = {key: value for key, value in schema.items() if key != "$defs"}
        return _Reading(self, known, direction).read(own)

    def named(self, key: bytes, wanted: str, owner: str) -> tuple[str, bool]:
        """Return the name of a Struct, and whether it was known before."""
        known = self._names.get(key)
        if known is not None:
            return known, True
        name = (
            wanted if wanted not in self._taken else unique(class_name(owner, wanted), self._taken)
        )
        self._taken.add(name)
        self._names[key] = name
        return name, False

    def add(self, name: str, lines: list[str]) -> None:
        self._structs.append(_Struct(name, lines))


class _Reading:
    """Reads one schema."""

    def __init__(self, shapes: Shapes, definitions: dict[str, Any], direction: Direction) -> None:
        self._shapes = shapes
        self._definitions = definitions
        self._direction = direction
        self._depth = 0

    def read(self, schema: Any, tag_field: str = "") -> str:
        """Return an annotation.

        Args:
            schema: Of a value.
            tag_field: The property that tells members of a union apart, in one of them.
        """
        if not isinstance(schema, dict) or self._depth >= _MAX_DEPTH:
            return "Any"
        self._depth += 1
        try:
            return self._read(schema, tag_field)
        finally:
            self._depth -= 1

    def _read(self, schema: Schema, tag_field: str) -> str:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix(_PREFIX)
            found = self._definitions.get(name)
            if not isinstance(found, dict):
                return "Any"
            return self.read({"title": name, **found}, tag_field)
        if "enum" in schema or "const" in schema:
            options = schema.get("enum", [schema.get("const")])
            return _choice(options)
        if isinstance(options := schema.get("anyOf"), list):
            return self._union(options, _tag_field_of(schema))
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._union([{**schema, "type": each} for each in kind], "")
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema, tag_field)
        if kind == "string":
            return "bytes" if "contentEncoding" in schema else _text_type(schema)
        return _SIMPLE.get(str(kind), "Any")

    def _union(self, options: list[Any], tag_field: str) -> str:
        found = [self.read(option, tag_field) for option in options]
        if not found or "Any" in found:
            return "Any"
        parts = list(dict.fromkeys(part for text in found for part in members(text)))
        if "None" in parts:
            parts = [*(part for part in parts if part != "None"), "None"]
        return " | ".join(parts)

    def _array(self, schema: Schema) -> str:
        parts = schema.get("prefixItems")
        if not isinstance(parts, list):
            return f"list[{self.read(schema.get('items'))}]"
        if schema.get("items") not in (None, False) or schema.get("minItems") != len(parts):
            return "list[Any]"
        return f"tuple[{', '.join(self.read(part) for part in parts)}]" if parts else "tuple[()]"

    def _object(self, schema: Schema, tag_field: str) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            more = schema.get("additionalProperties")
            return f"dict[str, {self.read(more)}]" if isinstance(more, dict) else "dict[str, Any]"
        title = str(schema.get("title") or "")
        if _is_file(title, properties):
            self._shapes.files.add(title)
            return f"{title} | Path" if self._direction.is_input else title
        wanted = (
            class_name(title)
            if title
            else class_name(self._direction.owner, self._direction.fallback)
        )
        name, is_known = self._shapes.named(
            self._key(schema, tag_field), wanted, self._direction.owner
        )
        if not is_known:
            self._shapes.add(name, self._struct(name, schema, tag_field))
        return name

    def _key(self, schema: Schema, tag_field: str) -> bytes:
        """Return what two Structs have in common that can be one."""
        reached: dict[str, Any] = {}
        ahead: list[Any] = [schema]
        while ahead:
            for name in _references(ahead.pop()):
                if name not in reached and name in self._definitions:
                    reached[name] = self._definitions[name]
                    ahead.append(reached[name])
        parts = [schema, *reached.values()]
        takes_paths = self._direction.is_input and any(_mentions_file(part) for part in parts)
        return msgspec.json.encode([schema, reached, tag_field, takes_paths], order="sorted")

    def _struct(self, name: str, schema: Schema, tag_field: str) -> list[str]:
        properties = dict(schema["properties"])
        options = "kw_only=True, omit_defaults=True"
        if tag := _tag_of(properties.get(tag_field)):
            del properties[tag_field]
            options += f", tag_field={literal(tag_field)}, tag={tag}"
        lines = [f"class {name}(msgspec.Struct, {options}):"]
        described = schema.get("description")
        text = docstring(described if isinstance(described, str) else "", "    ")
        lines += [*text, ""] if text and properties else text
        required = schema.get("required")
        wanted = required if isinstance(required, list) else []
        taken: set[str] = set()
        for key, part in properties.items():
            field = unique(variable_name(key), taken)
            taken.add(field)
            lines += self._field(field, key, part, key in wanted)
        if len(lines) == 1:
            lines.append("    pass")
        return lines

    def _field(self, field: str, key: str, schema: Any, is_required: bool) -> list[str]:
        annotation = self.read(schema)
        default = "" if is_required else _default(schema, annotation)
        if not is_required and not default:
            default = "msgspec.UNSET"
            annotation = "Any" if annotation == "Any" else f"{annotation} | msgspec.UnsetType"
        if field != key:
            given = f", default={default}" if default else ""
            default = f"msgspec.field(name={literal(key)}{given})"
        line = f"    {field}: {annotation}{f' = {default}' if default else ''}"
        return [line, *docstring(_remarks(schema), "    ")]


def has_required(schema: Schema | None) -> bool:
    """Tell whether an object has properties that must be given."""
    return schema is None or bool(schema.get("required")) or "properties" not in schema


def _choice(options: Any) -> str:
    if not isinstance(options, list) or not options:
        return "Any"
    if not all(isinstance(option, (str, int, type(None))) for option in options):
        return "Any"
    named = [literal(option) for option in options if option is not None]
    parts = [f"Literal[{', '.join(named)}]"] if named else []
    return " | ".join([*parts, *(["None"] if None in options else [])])


def _text_type(schema: Schema) -> str:
    return _FORMATS.get(str(schema.get("format")), "str")


def _tag_field_of(schema: Schema) -> str:
    discriminator = schema.get("discriminator")
    name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    return name if isinstance(name, str) else ""


def _tag_of(schema: Any) -> str:
    """Return the one value that a tag has; empty when this is no tag."""
    options = schema.get("enum", [schema.get("const")]) if isinstance(schema, dict) else []
    is_tag = len(options) == 1 and isinstance(options[0], (str, int))
    return literal(options[0]) if is_tag else ""


def _is_file(title: str, properties: dict[str, Any]) -> bool:
    cls = getattr(values, title, None) if title in FILES else None
    return cls is not None and set(properties) <= set(cls.__struct_fields__) and "ref" in properties


def _mentions_file(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(_mentions_file, part))
    if not isinstance(part, dict):
        return False
    properties = part.get("properties")
    title = part.get("title")
    if isinstance(title, str) and isinstance(properties, dict) and _is_file(title, properties):
        return True
    return any(map(_mentions_file, part.values()))


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for item in part for name in _references(item)]
    if not isinstance(part, dict):
        return []
    reference = part.get("$ref")
    own = [reference.removeprefix(_PREFIX)] if isinstance(reference, str) else []
    return own + [name for value in part.values() for name in _references(value)]


def _default(schema: Any, annotation: str) -> str:
    """Return what a field is unless it is given; empty when that is the host's business."""
    if not isinstance(schema, dict) or "default" not in schema:
        return ""
    value = schema["default"]
    parts = members(annotation)
    if value is None:
        return "None" if "None" in parts or annotation == "Any" else ""
    if value == [] and any(part.startswith("list[") for part in parts):
        return "[]"
    if value == {} and any(part.startswith("dict[") for part in parts):
        return "{}"
    if isinstance(value, int) and not isinstance(value, bool) and "int" not in parts:
        value = float(value) if "float" in parts else value
    is_plain = any(type(value) is kind and name in parts for name, kind in _KINDS.items())
    is_option = any(_is_option(value, part) for part in parts)
    return literal(value) if is_plain or is_option else ""


def _is_option(value: Any, annotation: str) -> bool:
    if not annotation.startswith("Literal[") or not isinstance(value, (str, int)):
        return False
    return literal(value) in annotation.removeprefix("Literal[").removesuffix("]").split(", ")


def _remarks(schema: Any) -> str:
    """Return what a field's annotation cannot say."""
    record = schema if isinstance(schema, dict) else {}
    said = record.get("description")
    bounds = [f"{words} {record[name]}" for name, words in _BOUNDS if name in record]
    text = ", ".join(bounds)
    return "\n\n".join(
        [*([said] if isinstance(said, str) and said.strip() else [])]
        + ([f"{text[0].upper()}{text[1:]}."] if text else [])
    )
