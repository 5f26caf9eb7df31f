"""From functions to the table of endpoint.lock. Nothing an author declared is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec

from gen_worker.endpoint.job_record import reads_model, request_type_of
from gen_worker.manifest import LOCK_VERSION, content_sha256
from gen_worker.problems import Problem
from gen_worker.schema import SchemaError, json_schema, schema_sha256
from gen_worker.spec import ProvidedParameter, class_spec_of, payload_type_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.project import Profile, Project
    from gen_worker.spec import FunctionSpec

__all__ = ["as_toml_table", "function_entries", "function_entry", "lock_table"]


def lock_table(
    project: Project, functions: list[dict[str, Any]], sdk_version: str
) -> dict[str, Any]:
    """Return the whole lock of a project, hash included.

    Args:
        project: Where the entries come from.
        functions: What `function_entries` returned, in that order.
        sdk_version: Version of the SDK that builds the lock.
    """
    table = as_toml_table(
        {
            "lock_version": LOCK_VERSION,
            "sdk_version": sdk_version,
            "endpoint_name": project.endpoint_name,
            "content_sha256": "",
            "resources": msgspec.to_builtins(project.resources) or None,
            "host_requirements": msgspec.to_builtins(project.host) or None,
            "models": msgspec.to_builtins(project.models) or None,
            "models_by_function": msgspec.to_builtins(project.models_by_function) or None,
            "profiles": [_profile(profile, project) for profile in project.profiles],
            "functions": functions,
        }
    )
    table["content_sha256"] = content_sha256(table)
    return table


def _profile(profile: Profile, project: Project) -> dict[str, Any]:
    """Return a profile with its resources in full, so that no reader has to merge tables."""
    return {
        "cpu_arch": profile.cpu_arch,
        "os": profile.os,
        **msgspec.to_builtins(profile),
        "resources": msgspec.to_builtins(project.resources_of(profile)) or None,
    }


def function_entries(
    functions: Iterable[FunctionSpec], project: Project | None = None
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return one entry per function, and why there is none for the others."""
    entries: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for spec in functions:
        try:
            entry = function_entry(spec, project)
            msgspec.json.encode(entry)
            entries.append(entry)
        except SchemaError as error:
            problems.append(_problem(spec, "schema", str(error)))
        except UnicodeEncodeError as error:
            problems.append(_problem(spec, "not_text", f"{error.object!r} is not UTF-8 text"))
    return entries, problems


def _problem(spec: FunctionSpec, code: str, reason: str) -> Problem:
    message = f"{spec.qualname} cannot be described, {reason}"
    return Problem(code=code, message=message, file=spec.file, line=spec.line)


def function_entry(spec: FunctionSpec, project: Project | None = None) -> dict[str, Any]:
    """Return the lock's table of one function.

    Raises:
        SchemaError: A type of the function has no JSON Schema.
    """
    options = project.functions.get(spec.name) if project is not None else None
    return as_toml_table(
        {
            **_identity(spec),
            "resources": spec.resources.to_dict() or None,
            **_bindings(spec),
            **_types(spec),
            **_markers(spec),
            **_limits(spec),
            "batch_dimension": options.batch_dimension if options else None,
        }
    )


def _identity(spec: FunctionSpec) -> dict[str, Any]:
    owner = class_spec_of(spec.owner)
    is_renamed = spec.registered_name != spec.python_name
    entry: dict[str, Any] = {
        "name": spec.name,
        "python_name": spec.python_name,
        "registered_name": spec.registered_name if is_renamed else None,
        "module": spec.module,
        "kind": spec.job_kind or spec.kind,
        "endpoint_kind": spec.kind if spec.job_kind else None,
        "sub_kind": spec.sub_kind,
        "decorator": spec.decorator,
        "case": spec.case,
        "label": spec.label,
        "description": spec.description,
    }
    if owner is not None:
        entry |= {
            "module": spec.module.partition(".")[0],
            "declared_module": spec.module,
            "class_name": owner.name,
            "archetype": owner.archetype,
            "runtime": owner.runtime,
            "prefer_distilled": spec.prefer_distilled,
            "stages": [msgspec.to_builtins(stage) for stage in owner.stages] or None,
        }
    return entry


def _bindings(spec: FunctionSpec) -> dict[str, Any]:
    bindings: dict[str, Any] = {}
    injections: list[dict[str, Any]] = []
    for name, parameter in spec.bindings.items():
        row = parameter.binding.to_lock(name, parameter.annotation)
        if parameter.binding.dialect == "binding":
            bindings[name] = row
        else:
            injections.append(row)
    refs = [row["model_ref"] for row in injections]
    return {
        "bindings": bindings or None,
        "injection_json": injections or None,
        "required_models": _unique(ref["key"] for ref in refs if ref["source"] == "fixed") or None,
        "payload_repo_selectors": [
            {"field": key, "kind": "short_key"}
            for key in _unique(ref["key"] for ref in refs if ref["source"] == "payload")
        ]
        or None,
        "payload_refs": {
            p.name: {"param": p.name, "kind": "source"}
            for p in spec.parameters
            if isinstance(p, ProvidedParameter) and reads_model(p)
        }
        or None,
    }


def _unique(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def _types(spec: FunctionSpec) -> dict[str, Any]:
    if spec.decorator == "training_function":
        return _job_types(spec)
    payload = spec.payload_type
    types: dict[str, Any] = {
        "output_mode": spec.output_mode,
        "incremental_output": spec.is_streamed,
        "is_async": spec.is_async,
        "payload_type": _type_name(payload),
        "output_type": _type_name(spec.result_type),
        "delta_type": _type_name(spec.delta_type),
    }
    schemas = {
        ("input_schema", "payload_schema_sha256"): payload_type_of(spec),
        ("output_schema", "output_schema_sha256"): spec.result_type,
        ("delta_output_schema", "delta_schema_sha256"): spec.delta_type,
    }
    for (schema_key, hash_key), annotation in schemas.items():
        if annotation is not None:
            schema = as_toml_table(msgspec.to_builtins(json_schema(annotation)))
            types |= {hash_key: schema_sha256(schema), schema_key: schema}
    return types


def _job_types(spec: FunctionSpec) -> dict[str, Any]:
    """Describe a `training_function`: its payload has no class, and its result is published."""
    conversion = "gen_worker.conversion"
    schema = as_toml_table(msgspec.to_builtins(json_schema(request_type_of(spec))))
    return {
        "output_mode": "single",
        "incremental_output": False,
        "is_async": spec.is_async,
        "payload_type": {"module": "", "qualname": f"{conversion}.WirePayload"},
        "payload_schema_sha256": schema_sha256(schema),
        "input_schema": schema,
        "output_type": {"module": conversion, "qualname": "list[ProducedFlavor]"},
        "output_schema_sha256": "",
        "output_schema": {},
    }


def _type_name(annotation: Any) -> dict[str, str] | None:
    """Name a type; a generic such as `list[ProducedFlavor]` under its item's module."""
    if annotation is None:
        return None
    arguments = get_args(annotation)
    cls = get_origin(annotation) or annotation
    module = str(getattr(cls, "__module__", ""))
    qualname = str(getattr(cls, "__qualname__", cls))
    if arguments:
        names = [str(getattr(item, "__qualname__", item)) for item in arguments]
        module = (
            str(getattr(arguments[0], "__module__", module)) if module == "builtins" else module
        )
        qualname = f"{qualname}[{', '.join(names)}]"
    return {"module": module, "qualname": qualname}


def _markers(spec: FunctionSpec) -> dict[str, Any]:
    from gen_worker.markers import expected_outputs_of, moderation_of

    payload, output = spec.payload_type, spec.delta_type or spec.result_type
    rows = expected_outputs_of(output, payload).rows if output is not None else ()
    return {
        "moderation": moderation_of(payload_type_of(spec)).to_lock() or None,
        "expected_outputs": list(rows) or None,
    }


def _limits(spec: FunctionSpec) -> dict[str, Any]:
    batching = spec.batching
    return {
        "timeout_ms": spec.timeout_ms,
        "rate_limit_per_invoker": spec.rate_limit_per_invoker,
        "allowed_shapes": [list(shape) for shape in spec.allowed_shapes] or None,
        "batch_window_ms": _whole(batching.window_ms) if batching else None,
        "max_batch": batching.max_batch if batching else None,
        "calibration": dict(spec.calibration) if spec.calibration else None,
        "concurrency_mode": spec.concurrency,
    }


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


_ABSENT = object()


def as_toml_table(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table as TOML can hold it.

    TOML has no null: such keys go, and with them lists that contain one, except an enum's, which
    says the same as `anyOf`.
    """
    if None in (table.get("enum") or ()):
        rest = [value for value in table["enum"] if value is not None]
        options = [{"enum": rest}] if rest else []
        table = {key: value for key, value in table.items() if key != "enum"}
        table |= {"anyOf": [*options, {"type": "null"}]}
    kept = {str(key): _value(value) for key, value in table.items()}
    return {key: value for key, value in kept.items() if value is not _ABSENT}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return as_toml_table(value)
    if isinstance(value, (list, tuple)):
        items = [_value(item) for item in value]
        return _ABSENT if any(item is _ABSENT for item in items) else items
    return _ABSENT if value is None else value
