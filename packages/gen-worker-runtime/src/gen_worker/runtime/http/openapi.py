"""The description of the API in OpenAPI 3.1, with a path of its own for each function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.runtime.http.backend import ServedFunction

__all__ = ["openapi_of"]

_DEFINITIONS = "#/$defs/"
_SCHEMAS = "#/components/schemas/"
_ANY: dict[str, Any] = {}


def openapi_of(functions: Iterable[ServedFunction]) -> dict[str, Any]:
    """Return the document."""
    served = sorted(functions, key=lambda function: function.name)
    schemas: dict[str, Any] = {
        "Answer": _ANSWER,
        "Refusal": _REFUSAL,
        "Submission": _SUBMISSION,
        "Request": _REQUEST,
    }
    paths: dict[str, Any] = dict(_PATHS)
    for function in served:
        paths[f"/v1/request/{function.name}"] = {"post": _call(function, schemas)}
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


def _call(function: ServedFunction, schemas: dict[str, Any]) -> dict[str, Any]:
    payload = _adopt(function.input_schema, f"{function.name}.input", schemas)
    output = _adopt(function.output_schema, f"{function.name}.output", schemas)
    is_streamed = function.output_mode == "incremental"
    whole: dict[str, Any] = {"type": "array", "items": output} if is_streamed else output
    answer = {"allOf": [_ref("Answer"), {"properties": {"output": {"anyOf": [whole, _NULL]}}}]}
    stream = {"schema": {"type": "string", "description": "server-sent events"}}
    return {
        "operationId": f"call-{function.name}",
        "summary": function.label or function.registered_name,
        **({"description": function.description} if function.description else {}),
        "tags": [function.kind],
        "parameters": [_KEY],
        "requestBody": {"required": False, "content": _json(payload)},
        "responses": {
            "200": {
                "description": "the call succeeded, or its events",
                "content": {**_json(answer), "text/event-stream": stream},
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


def _operation(name: str, summary: str, status: str = "200", **more: Any) -> dict[str, Any]:
    responses = {status: _answer(summary), "default": _answer("refused", _ref("Refusal"))}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


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
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
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
_FAILED = _ref("Answer")
_FAILURES = {
    "400": _answer("the input is wrong", _FAILED),
    "404": _answer("there is no such function", _ref("Refusal")),
    "409": _answer("the id or the key belongs to another request", _ref("Refusal")),
    "413": _answer("the input is too large", _FAILED),
    "429": _answer("too many calls are waiting; see Retry-After", _FAILED),
    "default": _answer("the call failed", _FAILED),
}
_ID = _in_path("id")
_EVENTS = {
    "description": "server-sent events with ids",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_PATHS: dict[str, Any] = {
    "/v1/functions": {"get": _operation("list-functions", "what is served")},
    "/v1/status": {"get": _operation("status", "how this host is")},
    "/v1/requests": {
        "post": {
            "operationId": "submit",
            "summary": "start a request and do not wait for it",
            "parameters": [_KEY],
            "requestBody": {"required": True, "content": _json(_ref("Submission"))},
            "responses": {
                "202": _answer("it was started; see Location", _ref("Request")),
                "default": _answer("refused", _ref("Refusal")),
            },
        }
    },
    "/v1/requests/{id}": {
        "parameters": [_ID],
        "get": _operation("show-request", "a request, with its answer once it has ended"),
        "delete": _operation("cancel-request", "cancel a request"),
    },
    "/v1/requests/{id}/events": {
        "parameters": [_ID],
        "get": {
            "operationId": "follow-request",
            "summary": "what a request produces, from its beginning or from Last-Event-ID on",
            "parameters": [
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "required": False,
                    "schema": {"type": "integer", "minimum": 0},
                }
            ],
            "responses": {"200": _EVENTS, "default": _answer("refused", _ref("Refusal"))},
        },
    },
    "/v1/warmup/{function}": {
        "parameters": [_in_path("function")],
        "post": _operation("warm-up", "set a function up, and call it if there is a payload"),
    },
    "/v1/models/status": {"get": _operation("models-status", "which models are where")},
    "/v1/models/prefetch": {"post": _operation("prefetch-models", "download models")},
    "/v1/models/load": {"post": _operation("load-model", "have a model in memory")},
    "/v1/models/unload": {"post": _operation("unload-model", "give a model's memory up")},
    "/v1/files": {
        "post": {
            **_operation("upload-file", "keep a file that payloads can refer to", "201"),
            "parameters": [{"name": "name", "in": "query", "schema": {"type": "string"}}],
            "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
        }
    },
    "/v1/files/{ref}": {
        "parameters": [_in_path("ref")],
        "get": {
            "operationId": "download-file",
            "summary": "an output or an uploaded file; ranges are understood",
            "responses": {
                "200": {"description": "the file", "content": {"application/octet-stream": {}}},
                "206": {"description": "a part", "content": {"application/octet-stream": {}}},
                "default": _answer("refused", _ref("Refusal")),
            },
        },
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "figures in the text format of Prometheus",
            "responses": {
                "200": {
                    "description": "metrics",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                }
            },
        }
    },
    "/healthz": {"get": {**_operation("health", "whether this process can go on"), "security": []}},
    "/readyz": {"get": {**_operation("readiness", "whether to send it requests"), "security": []}},
}
