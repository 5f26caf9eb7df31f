"""A first call of what was deployed, ready to be pasted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gen_worker.cli.platform.projects import Deployed

__all__ = ["curl_line", "example_of"]

_TEXT = "hello"
_MAX_DEPTH = 4


def curl_line(url: str, deployed: Deployed, known: dict[str, Any], *, token_file: str = "") -> str:
    """Return a shell command that calls a function of a release.

    Args:
        url: Of the platform.
        deployed: The release.
        known: What `/v1/functions` says; a function's schema tells which fields it needs.
        token_file: Has the token that callers need; empty where they need none.
    """
    schemas: dict[str, dict[str, Any]] = {one: {} for one in deployed.functions}
    for row in known.get("functions", ()):
        if (row["owner"], row["endpoint"]) == deployed.key[:2] and row["name"] in schemas:
            schemas[row["name"]] = row["input_schema"]
    name = min(schemas, key=lambda one: len(_files_of(schemas[one])), default="")
    schema = schemas.get(name, {})
    if files := _files_of(schema):  # nothing that could be pasted has one
        target = f"{deployed.owner}/{deployed.endpoint}/{name}"
        given = " ".join(f"{field}@FILE" for field in files)
        return f"gen-worker invoke {target} {given} --url {shlex.quote(url)}"
    payload = msgspec.json.encode(example_of(schema, schema.get("$defs", {}))).decode()
    target = f"{url}/v1/request/{deployed.owner}/{deployed.endpoint}/{name}"
    line = f"curl {shlex.quote(target)} -d {shlex.quote(payload)}"
    if token_file:
        line += f' -H "Authorization: Bearer $(cat {shlex.quote(token_file)})"'
    return line


def _files_of(schema: dict[str, Any]) -> list[str]:
    """Return the fields that have to be files."""
    fields = schema.get("properties", {})
    required = (name for name in schema.get("required", ()) if name in fields)
    return [name for name in required if fields[name].get("$ref", "").endswith("Asset")]


def example_of(schema: dict[str, Any], definitions: dict[str, Any], depth: int = 0) -> Any:
    """Return a value that a schema allows, as small as can be."""
    reference = schema.get("$ref", "")
    if reference:
        schema = definitions.get(reference.rpartition("/")[2], {})
    for key in ("default", "const"):
        if schema.get(key, "") != "":
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0], definitions, depth)
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            fields = schema.get("properties", {}) if depth < _MAX_DEPTH else {}
            # Without a field that has to be there, the first one shows how fields are given.
            names = schema.get("required") or ([] if depth else list(fields)[:1])
            return {
                name: example_of(fields.get(name, {}), definitions, depth + 1) for name in names
            }
        case "string":
            return _TEXT[: schema.get("maxLength", len(_TEXT))].ljust(schema.get("minLength", 0))
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case "array":
            item = schema.get("items") or {}
            count = schema.get("minItems", 0)
            return [example_of(item, definitions, depth + 1) for _ in range(count)]
        case _:
            return None
