"""The JSON Schema of endpoint.toml, for editors: made from the records that check the file.

`python -m gen_worker.project.json_schema` prints what docs/endpoint-toml.schema.json holds.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

import msgspec

from gen_worker.project import values
from gen_worker.project.models import MODEL_ENTRY_SCHEMA

__all__ = ["endpoint_toml_schema"]

Schema = dict[str, Any]

# Numbers are read as the text they look like.
_NUMERIC = ("min_compute_capability", "cuda_compute_min")


def endpoint_toml_schema() -> Schema:
    """Return the schema of the whole file."""
    (root,), definitions = msgspec.json.schema_components(
        [values.EndpointFile], ref_template="#/$defs/{name}"
    )
    texts = _field_texts()
    for name, definition in definitions.items():
        for key, field in definition["properties"].items():
            definition["properties"][key] = _described(field, texts.get((name, key), ""))
    for key in _NUMERIC:
        limits = definitions["ResourceLimits"]["properties"]
        limits[key] = {**limits[key], "type": ["string", "number"]}
    schema: Schema = definitions.pop(root["$ref"].rpartition("/")[2])
    definitions["ModelEntry"] = MODEL_ENTRY_SCHEMA
    keyspace = {"type": "object", "additionalProperties": {"$ref": "#/$defs/ModelEntry"}}
    schema["properties"]["models"]["additionalProperties"] = {
        "anyOf": [{"$ref": "#/$defs/ModelEntry"}, keyspace]
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "endpoint.toml",
        "description": "Where an endpoint runs, what is imported and how its image is built.",
        "$defs": dict(sorted(definitions.items())),
    }


def _described(field: Schema, text: str) -> Schema:
    """Return a field's schema with its description, and without null, which TOML does not have."""
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if options:
        (field,) = options
    kept = {key: value for key, value in field.items() if key not in ("default", "title")}
    return {**kept, **({"description": text} if text else {})}


def _field_texts() -> dict[tuple[str, str], str]:
    """Return the text below each field of the records, by class and field."""
    texts: dict[tuple[str, str], str] = {}
    for cls in ast.parse(inspect.getsource(values)).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        for field, below in zip(cls.body, cls.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[cls.name, name] = text
    return texts


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(endpoint_toml_schema()), indent=2).decode())
