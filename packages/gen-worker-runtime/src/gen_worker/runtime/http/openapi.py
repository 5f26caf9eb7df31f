"""The description of the API in OpenAPI 3.1, with a path of its own for each function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.runtime.http.backend import ServedFunction
    from gen_worker.runtime.http.table import HttpRoute, Operation

__all__ = ["in_query", "openapi_of", "operation"]

_DEFINITIONS = "#/$defs/"
_SCHEMAS = "#/components/schemas/"
_ANY: dict[str, Any] = {}


def openapi_of(
    functions: Iterable[ServedFunction], routes: Iterable[HttpRoute] = ()
) -> dict[str, Any]:
    """Return the document of a host that serves these functions, and answers these routes."""
    table = tuple(routes)
    served = sorted(functions, key=_path)
    schemas: dict[str, Any] = {
        "Answer": _ANSWER,
        "Refusal": _REFUSAL,
        "Submission": _SUBMISSION,
        "Request": _REQUEST,
    }
    for route in table:
        schemas |= route.schemas
    paths = _described(table)
    for function in served:
        paths.setdefault(f"/v1/request/{_path(function)}", {"post": _call(function, schemas)})
    endpoints = sorted({function.endpoint for function in served if function.endpoint})
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": ", ".join(endpoints) or "gen-worker", "version": sdk_version()},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _path(function: ServedFunction) -> str:
    """Return a function's name in paths: with its owner where several may have one."""
    if function.owner is None:
        return function.name
    return f"{function.owner}/{function.endpoint}/{function.name}"


def _call(function: ServedFunction, schemas: dict[str, Any]) -> dict[str, Any]:
    name = _path(function).replace("/", ".")
    payload = _adopt(function.input_schema, f"{name}.input", schemas)
    output = _adopt(function.output_schema, f"{name}.output", schemas)
    is_streamed = function.output_mode == "incremental"
    whole: dict[str, Any] = {"type": "array", "items": output} if is_streamed else output
    answer = {"allOf": [_ref("Answer"), {"properties": {"output": {"anyOf": [whole, _NULL]}}}]}
    return {
        "operationId": f"call-{name}",
        "summary": function.label or function.registered_name,
        **({"description": function.description} if function.description else {}),
        "tags": [function.kind],
        "parameters": [_KEY],
        "requestBody": {"required": False, "content": _json(payload)},
        "responses": {
            "200": {
                "description": "the call succeeded, or its events",
                "content": {**_json(answer), **_EVENTS},
            },
            **_FAILURES,
        },
    }


def _adopt(schema: dict[str, Any] | None, name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Put a schema and what it refers to among the components; return a reference to it."""
    if schema is None:
        return _ANY
    definitions = schema.get("$defs", {})
    names = {key: f"{name}.{key}" for key in definitions}
    for key, definition in definitions.items():
        schemas[names[key]] = _moved(definition, names)
    own = {key: value for key, value in schema.items() if key != "$defs"}
    schemas[name] = _moved(own, names)
    return _ref(name)


def _moved(part: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references lead to the components."""
    if isinstance(part, list):
        return [_moved(item, names) for item in part]
    if not isinstance(part, dict):
        return part
    moved = {key: _moved(value, names) for key, value in part.items()}
    if isinstance(reference := part.get("$ref"), str) and reference.startswith(_DEFINITIONS):
        moved["$ref"] = _SCHEMAS + names[reference.removeprefix(_DEFINITIONS)]
    if isinstance(discriminator := part.get("discriminator"), dict) and "mapping" in discriminator:
        mapping = {
            tag: _SCHEMAS + names.get(str(to).removeprefix(_DEFINITIONS), str(to))
            for tag, to in discriminator["mapping"].items()
        }
        moved["discriminator"] = {**discriminator, "mapping": mapping}
    return moved


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _SCHEMAS + name}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(description: str, schema: dict[str, Any] = _ANY) -> dict[str, Any]:
    return {"description": description, "content": _json(schema)}


def operation(
    name: str,
    summary: str,
    status: str = "200",
    *,
    answer: dict[str, Any] = _ANY,
    body: dict[str, Any] | None = None,
    parameters: Sequence[dict[str, Any]] = (),
) -> Operation:
    """Return the description of a route that takes JSON, or nothing, and answers with JSON.

    Args:
        name: Its `operationId`, in the words of a command: `drain-worker`.
        summary: What it does.
        status: Of its success.
        answer: JSON Schema of that answer.
        body: JSON Schema of what it takes; None when it takes nothing.
        parameters: Of its query and its headers; those of its path are known.
    """
    described: Operation = {"operationId": name, "summary": summary}
    if parameters:
        described["parameters"] = list(parameters)
    if body is not None:
        described["requestBody"] = {"required": True, "content": _json(body)}
    refused = _answer("refused", _ref("Refusal"))
    return described | {"responses": {status: _answer(summary, answer), "default": refused}}


def in_query(name: str, schema: dict[str, Any], *, is_required: bool = False) -> dict[str, Any]:
    """Return the description of a parameter of the query."""
    return {"name": name, "in": "query", "required": is_required, "schema": schema}


def _described(routes: Iterable[HttpRoute]) -> dict[str, Any]:
    """Return the paths of a table, but for functions."""
    paths: dict[str, Any] = {}
    for route in routes:
        if route.operation is not None:
            path = route.pattern.replace("*}", "}")
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            own = {"parameters": [_in_path(name) for name in names]} if names else {}
            method = route.methods.split()[0].lower()
            paths.setdefault(path, own)[method] = route.operation
    return paths


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_NULL = {"type": "null"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_NUMBER = {"type": "number"}
_ANSWER = {
    "type": "object",
    "required": [
        "request_id",
        "success",
        "output",
        "error_type",
        "safe_message",
        "error_message",
        "events",
        "timing_ms",
    ],
    "properties": {
        "request_id": {"type": "string"},
        "success": {"type": "boolean"},
        "output": _ANY,
        "error_type": _TEXT_OR_NULL,
        "safe_message": _TEXT_OR_NULL,
        "error_message": _TEXT_OR_NULL,
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["request_id", "event_type", "payload"],
                "properties": {
                    "request_id": {"type": "string"},
                    "event_type": {"type": "string"},
                    "payload": _ANY,
                    "timestamp": _NUMBER,
                },
            },
        },
        "timing_ms": {"type": "object", "additionalProperties": _NUMBER},
    },
}
_REFUSAL = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string"},
        "message": {"type": "string"},
        "error_type": {"type": "string"},
        "retryable": {"type": "boolean"},
        "path": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_SUBMISSION = {
    "type": "object",
    "required": ["function", "payload"],
    "properties": {
        "function": {"type": "string"},
        "payload": _ANY,
        "request_id": {"type": "string"},
        "timeout_ms": {"type": "integer", "minimum": 0},
        "owner": {"type": "string"},
        "invoker_id": {"type": "string"},
        "priority": {"type": "integer", "minimum": -1000, "maximum": 1000},
        "webhook": {
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": {"type": "string"},
                "events": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}
_REQUEST = {
    "type": "object",
    "required": ["request_id", "status"],
    "properties": {
        "request_id": {"type": "string"},
        "status": {"enum": ["queued", "running", "succeeded", "failed", "canceled"]},
        "function": {"type": "string"},
        "created_at": _NUMBER,
        "last_event_id": {"type": "integer"},
    },
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "a request with the same key and body joins the first one",
}
_FAILED = {"anyOf": [_ref("Answer"), _ref("Refusal")]}
"""What fails before it became a call has no answer."""
_FAILURES = {
    "400": _answer("the input is wrong", _FAILED),
    "404": _answer("there is no such function", _ref("Refusal")),
    "409": _answer("the id or the key belongs to another request", _ref("Refusal")),
    "413": _answer("the input is too large", _FAILED),
    "429": _answer("too many calls are waiting; see Retry-After", _FAILED),
    "default": _answer("the call failed", _FAILED),
}
_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
}
_EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""No schema: this version of OpenAPI has none for single events."""
_BYTES: dict[str, Any] = {"application/octet-stream": {}}

LIST_FUNCTIONS = operation("list-functions", "what is served")
STATUS = operation("status", "how this host is")
SUBMIT = operation(
    "submit",
    "start a request and do not wait for it; see Location",
    "202",
    answer=_ref("Request"),
    body=_ref("Submission"),
    parameters=[_KEY],
)
SHOW_REQUEST = operation("show-request", "a request, with its answer once it has ended")
CANCEL_REQUEST = operation("cancel-request", "cancel a request")
FOLLOW_REQUEST: Operation = {
    "operationId": "follow-request",
    "summary": "what a request produces, from its beginning or from Last-Event-ID on",
    "parameters": [_EVENT_ID],
    "responses": {
        "200": {
            "description": "server-sent events with ids",
            "content": _EVENTS,
        },
        "default": _answer("refused", _ref("Refusal")),
    },
}
WARM_UP = operation("warm-up", "set a function up, and call it if there is a payload")
MODELS_STATUS = operation("models-status", "which models are where")
PREFETCH_MODELS = operation("prefetch-models", "download models")
LOAD_MODEL = operation("load-model", "have a model in memory")
UNLOAD_MODEL = operation("unload-model", "give a model's memory up")
UPLOAD_FILE: Operation = {
    **operation(
        "upload-file",
        "keep a file that payloads can refer to",
        "201",
        parameters=[in_query("name", {"type": "string"})],
    ),
    "requestBody": {"required": True, "content": _BYTES},
}
DOWNLOAD_FILE: Operation = {
    "operationId": "download-file",
    "summary": "an output or an uploaded file; ranges are understood",
    "responses": {
        "200": {"description": "the file", "content": _BYTES},
        "206": {"description": "a part", "content": _BYTES},
        "default": _answer("refused", _ref("Refusal")),
    },
}
METRICS: Operation = {
    "operationId": "metrics",
    "summary": "figures in the text format of Prometheus",
    "responses": {
        "200": {
            "description": "metrics",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
}
HEALTH: Operation = {**operation("health", "whether this process can go on"), "security": []}
READINESS: Operation = {**operation("readiness", "whether to send it requests"), "security": []}
