"""What can only be judged once all functions of a project are known, or once one is complete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gen_worker.project import Project
    from gen_worker.spec import FunctionSpec

__all__ = ["function_problems", "project_problems"]


def function_problems(functions: Sequence[FunctionSpec]) -> list[Problem]:
    """Return duplicates and what is wrong with single functions."""
    found = list(_duplicates(functions))
    for spec in functions:
        found += _return_annotation(spec)
        found += _unreadable_payload(spec)
        # Without the module there cannot be a marker anywhere, and nothing has to be looked at.
        if "gen_worker.markers" in sys.modules:
            found += _markers(spec)
        if "gen_worker.constraints" in sys.modules:
            found += _misplaced_limits(spec)
    return found


def _problem(spec: FunctionSpec, code: str, message: str, hint: str = "") -> Problem:
    return Problem(code=code, message=message, hint=hint, file=spec.file, line=spec.line)


def _duplicates(functions: Sequence[FunctionSpec]) -> Iterator[Problem]:
    holders: dict[str, list[FunctionSpec]] = {}
    for spec in functions:
        holders.setdefault(spec.name, []).append(spec)
    for name, specs in holders.items():
        if len(specs) > 1:
            shown = ", ".join(f"{spec.module}.{spec.qualname}" for spec in specs)
            yield _problem(
                specs[-1],
                "duplicate_function",
                f"{len(specs)} functions are routed as {name!r}, {shown}",
                "give all but one of them another name=",
            )


def _return_annotation(spec: FunctionSpec) -> Iterator[Problem]:
    """Require a declared single output; what a generator yields may stay open."""
    if spec.is_streamed or spec.result_type is not None:
        return
    if "return" not in getattr(spec.function, "__annotations__", ()):
        yield _problem(
            spec,
            "return_missing",
            f"{spec.qualname} does not say what it returns",
            "annotate it, like `-> Reply` or `-> Iterator[Piece]`",
        )


def _unreadable_payload(spec: FunctionSpec) -> Iterator[Problem]:
    """Refuse a payload that no call could be read into, such as for a union of two lists."""
    try:
        msgspec.json.Decoder(spec.payload_type or Any)
    except (TypeError, ValueError, NameError, RecursionError) as error:
        from gen_worker.schema import SchemaError, json_schema  # hardly ever needed

        reason = str(error)
        try:
            json_schema(spec.payload_type)
        except SchemaError as blame:
            reason = f"{blame}; {error}"
        yield _problem(spec, "schema", f"{spec.qualname} cannot be called, {reason}")


def _misplaced_limits(spec: FunctionSpec) -> Iterator[Problem]:
    from gen_worker.constraints import compile_clamps
    from gen_worker.file_values import file_plan

    for compiled in (compile_clamps, file_plan):
        try:
            compiled(spec.payload_type)
        except TypeError as error:
            reason = f"{spec.qualname} cannot be called, {error}"
            yield _problem(spec, "schema", reason, "put it on a field of the type it is for")


def _markers(spec: FunctionSpec) -> Iterator[Problem]:
    from gen_worker.markers import expected_outputs_of, moderation_of

    if spec.payload_type is not None:
        for text in moderation_of(spec.payload_type).problems:
            yield _problem(spec, "prompt_role", f"{spec.qualname}: {text}")
    output = spec.delta_type if spec.is_streamed else spec.result_type
    if output is not None:
        for text in expected_outputs_of(output, spec.payload_type).problems:
            yield _problem(spec, "expected_output", f"{spec.qualname}: {text}")


def project_problems(project: Project, functions: Iterable[FunctionSpec]) -> list[Problem]:
    """Return where endpoint.toml and the functions contradict each other."""
    by_name = {spec.name: spec for spec in functions}
    found = list(_unknown_functions(project, list(by_name)))
    for spec in by_name.values():
        found += _keyspaces(project, spec)
        found += _batch_dimension(project, spec)
    return found


def _unknown_functions(project: Project, known: list[str]) -> Iterator[Problem]:
    declared = {f"models.{name}": name for name in project.models_by_function}
    declared |= {f"functions.{name}": name for name in project.functions}
    for key, name in declared.items():
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            yield Problem(
                code="unknown_function",
                message=f"[{key}] names no function",
                hint=hint if known else "",
                file=project.file,
                key=key,
            )


def _keyspaces(project: Project, spec: FunctionSpec) -> Iterator[Problem]:
    """Check every model that a function takes from `[models]`."""
    for name, parameter in spec.bindings.items():
        if parameter.binding.dialect != "injection":
            continue
        model_ref = parameter.binding.to_lock(name, parameter.annotation)["model_ref"]
        source, key = model_ref["source"], model_ref["key"]
        if source == "fixed" and key not in project.models:
            yield _problem(
                spec,
                "model_key_missing",
                f"{spec.qualname} takes model {key!r}, which [models] does not have",
                f'add {key} = "owner/repo" to [models] in endpoint.toml',
            )
        elif source == "payload" and not project.models_by_function.get(spec.name):
            yield _problem(
                spec,
                "model_keyspace_missing",
                f"{spec.qualname} lets the payload choose a model, but there is nothing to choose",
                f"list the models under [models.{spec.name}] in endpoint.toml",
            )


def _batch_dimension(project: Project, spec: FunctionSpec) -> Iterator[Problem]:
    options = project.functions.get(spec.name)
    if options is None or options.batch_dimension is None:
        return
    head = options.batch_dimension.partition(".")[0].partition("[")[0]
    fields: tuple[str, ...] = getattr(spec.payload_type, "__struct_encode_fields__", ())
    if head not in fields:
        yield Problem(
            code="unknown_payload_field",
            message=f"batch_dimension {options.batch_dimension!r} begins with {head!r}, "
            f"which is no field of {spec.qualname}'s payload",
            hint=f"its fields are {', '.join(fields)}",
            file=project.file,
            key=f"functions.{spec.name}.batch_dimension",
        )
