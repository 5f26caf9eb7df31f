"""The description of the API is valid OpenAPI 3.1 and says what the functions take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from gen_worker import Clamp
from gen_worker.runtime.http import ServedFunction, openapi_of
from gen_worker.schema import json_schema

if TYPE_CHECKING:
    import httpx


class Cat(msgspec.Struct, tag="cat"):
    lives: Annotated[int, Clamp(1, 9)] = 9


class Dog(msgspec.Struct, tag="dog"):
    friends: "list[Cat | Dog]" = []


class Zoo(msgspec.Struct):
    animals: list[Cat | Dog]
    names: dict[str, str | None] = {}


def served(name: str, **more: Any) -> ServedFunction:
    facts = {
        "registered_name": name,
        "python_name": name,
        "endpoint": "zoo",
        "kind": "inference",
        "output_mode": "single",
        "input_schema": json_schema(Zoo),
        "output_schema": json_schema(Cat),
    }
    return ServedFunction(name=name, **{**facts, **more})


def check(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="it is not installed here")
    validator.validate(document)


def references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {ref for item in part for ref in references(item)}
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    return own | {ref for value in part.values() for ref in references(value)}


def test_a_document_of_hard_types_is_valid() -> None:
    document = openapi_of(
        [
            served("feed"),
            served("watch", output_mode="incremental", label="Watch", description="For long."),
            served("anything", input_schema=None, output_schema=None),
        ]
    )
    check(document)
    names = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in names}
    assert names["feed.input"]["properties"]["animals"]["items"]["anyOf"]
    assert names["feed.input.Cat"]["properties"]["lives"]["maximum"] == 9
    assert len(set(names)) == len(names)


def test_a_hosts_document_has_a_path_for_each_function(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    check(document)
    assert document["openapi"].startswith("3.1.")
    listed = client.get("/v1/functions").json()["functions"]
    for entry in listed:
        operation = document["paths"][f"/v1/request/{entry['name']}"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{entry['name']}.input"}
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(set(ids)) == len(ids)
