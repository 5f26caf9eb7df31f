"""`training_function`: a job that reads a source and produces weights for a destination.

The job's parameters are filled by name: the reserved ones by the endpoint kind, every other one
from the payload field of its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, overload

import msgspec

from gen_worker.endpoint.annotations import (
    bare_and_binding,
    is_struct,
    list_item,
    members_of,
    show,
)
from gen_worker.endpoint.callables import arguments_of, hints_of, locals_of, place_of, shape_of
from gen_worker.endpoint.functions import open_function
from gen_worker.endpoint.job_record import attach_record
from gen_worker.endpoint.options import (
    Concurrency,
    FunctionOptions,
    read_calibration,
    read_concurrency,
    read_function_options,
    read_resources,
)
from gen_worker.endpoint.returns import read_output
from gen_worker.endpoint.signature import (
    callable_by_name,
    context_argument,
    context_parameter,
    report_unknown_fields,
)
from gen_worker.resources import Resources
from gen_worker.spec import (
    DEFINITION_ATTRIBUTE,
    ContextParameter,
    FunctionSpec,
    PayloadFieldParameter,
    ProvidedParameter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.endpoint.callables import Argument
    from gen_worker.endpoint.problems import Findings
    from gen_worker.spec import EndpointKind, Parameter

__all__ = ["DEFAULT_KIND", "RECOMMENDED_KINDS", "training_function"]

F = TypeVar("F", bound="Callable[..., Any]")

DEFAULT_KIND = "fine-tuning"
RECOMMENDED_KINDS = (
    "fine-tuning",
    "distillation",
    "pruning",
    "fusion",
    "quantization",
    "format-conversion",
    "dataset-generation",
)
"""Job kinds the platform knows; others are allowed, and `kind:detail` refines one of them."""

_DATASET_KIND = "dataset-generation"
_RESERVED = {
    "source": "Source",
    "destination": "DestinationRepo or dict",
    "specs": "a msgspec type, such as list[Spec]",
    "datasets": "list[Dataset]",
    "outputs": "list[OutputSpec] or a list of your own struct",
}


@overload
def training_function(fn: F) -> F: ...
@overload
def training_function(
    fn: None = None,
    *,
    kind: str = DEFAULT_KIND,
    concurrency: Concurrency = "sequential",
    label: str | None = None,
    description: str | None = None,
    calibration: Mapping[str, str] | str | None = None,
    resources: Resources | None = None,
    scaling_hints: Mapping[str, Any] | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
    **hints: Any,
) -> Callable[[F], F]: ...
def training_function(
    fn: Any = None,
    *,
    kind: str = DEFAULT_KIND,
    concurrency: Concurrency = "sequential",
    label: str | None = None,
    description: str | None = None,
    calibration: Mapping[str, str] | str | None = None,
    resources: Resources | None = None,
    scaling_hints: Mapping[str, Any] | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
    **hints: Any,
) -> Any:
    """Make a function a job, `def quant(ctx, source: Source, bits: int) -> list[ProducedFlavor]`.

    `source`, `destination`, `specs`, `datasets` and `outputs` are supplied, and so are models that
    other parameters annotated with `Source` name; every other parameter is decoded from the payload
    field of its name, and `payload: Struct` from the whole payload unless it has such a field. What
    the function returns is published on the destination.

    Args:
        fn: The function, when used bare.
        kind: What the job does, one of `RECOMMENDED_KINDS`, refined as `quantization:gptq-w4`.
        concurrency: Whether a worker runs one job at a time, or several.
        label: Short title for people.
        description: What it does, for people.
        calibration: `required`, `beneficial` or `unsupported` per quantization scheme, or for all.
        resources: The hardware it needs.
        scaling_hints: The `vram_*` and `runtime_*` fields of `Resources`, as a mapping.
        name: Name to register instead of the function's own.
        timeout_ms: Milliseconds one job may take.
        rate_limit_per_invoker: Jobs one invoker may have running at once.
        hints: The same fields as `scaling_hints`, as keywords.

    Raises:
        DefinitionError: The function cannot be a job; every reason is listed.
    """
    options = FunctionOptions(name, label, description, timeout_ms, rate_limit_per_invoker)

    def decorate(function: F, scope: Mapping[str, Any] | None = None) -> F:
        scope = locals_of(1) if scope is None else scope
        findings = open_function(function, "training_function")
        fields = read_function_options(options, function.__name__, findings)
        fields["calibration"] = read_calibration(calibration, findings)
        fields["resources"] = _resources(resources, {**(scaling_hints or {}), **hints}, findings)
        fields["concurrency"] = read_concurrency(concurrency, findings)
        fields["job_kind"] = _job_kind(kind, findings)
        spec = _define(function, fields, scope, findings)
        setattr(function, DEFINITION_ATTRIBUTE, spec)
        attach_record(function, spec)
        return function

    return decorate if fn is None else decorate(fn, locals_of(1))


def _define(
    function: Callable[..., Any],
    fields: dict[str, Any],
    scope: Mapping[str, Any],
    findings: Findings,
) -> FunctionSpec:
    kind = _endpoint_kind(fields["job_kind"])
    found = len(findings)
    hints = hints_of(function, scope, findings)
    if len(findings) == found:
        parameters = _parameters(arguments_of(function), hints, kind, findings)
        taken = [p.name for p in parameters if not isinstance(p, ContextParameter)]
        report_unknown_fields(fields["resources"], taken, "the job's payload", findings)
        output = read_output(shape_of(function), hints, findings, kind=kind)
        if output.shape in ("async", "async_generator"):
            findings.add("async_not_allowed", "a job must not be async", "write a plain def")
    findings.raise_if_any()
    file, line = place_of(function)
    return FunctionSpec(
        python_name=function.__name__,
        kind=kind,
        decorator="training_function",
        module=function.__module__,
        qualname=function.__qualname__,
        function=function,
        shape=output.shape,
        parameters=parameters,
        payload_type=None,
        result_type=output.result_type,
        delta_type=output.delta_type,
        output_mode=output.mode,
        file=file,
        line=line,
        **fields,
    )


def _endpoint_kind(job_kind: str) -> EndpointKind:
    """Return the endpoint kind that runs a job: the one that knows sources and destinations."""
    return "dataset" if job_kind.partition(":")[0] == _DATASET_KIND else "conversion"


def _parameters(
    arguments: Sequence[Argument],
    hints: Mapping[str, Any],
    kind: EndpointKind,
    findings: Findings,
) -> tuple[Parameter, ...]:
    context = context_argument(arguments, hints, findings, is_reserved=True)
    parameters: list[Parameter] = [context_parameter(context, hints)] if context else []
    for argument in callable_by_name(arguments[1 if context else 0 :], findings):
        name, annotation = argument.name, hints.get(argument.name, Any)
        if name in _RESERVED:
            _check_reserved(name, annotation, findings)
            parameters.append(ProvidedParameter(name, annotation, argument.default))
        elif _is_source(annotation):
            parameters.append(ProvidedParameter(name, annotation, argument.default))
        elif name == "_models":
            findings.add("reserved_field", "a parameter must not be named '_models'", "rename it")
        else:
            parameters.append(PayloadFieldParameter(name, annotation, argument.default))
    if kind != "dataset" and not any(p.name == "source" for p in parameters):
        findings.add(
            "source_missing",
            "a job needs the weights it starts from",
            f"add a parameter `source: Source`, or write kind={_DATASET_KIND!r}",
        )
    return tuple(parameters)


def _check_reserved(name: str, annotation: Any, findings: Findings) -> None:
    bare = [bare_and_binding(member)[0] for member in members_of(annotation)]
    if annotation is Any or not any(_is_expected(name, member) for member in bare):
        found = "has no annotation" if annotation is Any else f"is annotated {show(annotation)}"
        findings.add(
            "parameter_annotation",
            f"reserved parameter {name!r} {found}",
            f"annotate it with {_RESERVED[name]}",
            wrong_type=True,
        )


def _is_expected(name: str, annotation: Any) -> bool:
    """Compare by class name: `Source` and `Dataset` are classes of a package above this one."""
    origin = get_origin(annotation) or annotation
    if name == "specs":
        return True
    if name == "outputs":
        items = get_args(annotation) or (msgspec.Struct,)
        return origin in (list, Sequence) and is_struct(bare_and_binding(items[0])[0])
    if name == "datasets":
        item = list_item(annotation) or (get_args(annotation) or (None,))[0]
        return origin in (list, Sequence) and (item is None or _is_named(item, "Dataset"))
    if name == "destination":
        return origin in (dict, Mapping) or _is_named(annotation, "DestinationRepo")
    return _is_named(annotation, "Source")


def _is_source(annotation: Any) -> bool:
    """Tell whether a parameter of any name reads a model, as `teacher: Source` does."""
    members = [bare_and_binding(member)[0] for member in members_of(annotation)]
    return any(_is_named(one, "Source") and not is_struct(one) for one in members)


def _is_named(annotation: Any, name: str) -> bool:
    return any(cls.__name__ == name for cls in getattr(annotation, "__mro__", ()))


def _resources(given: Any, hints: Mapping[str, Any], findings: Findings) -> Resources:
    resources = read_resources(given, findings)
    unknown = [
        name
        for name in hints
        if not name.startswith(("vram_", "runtime_")) or name not in Resources.__struct_fields__
    ]
    for name in unknown:
        findings.add("invalid_option", f"there is no option {name!r}", wrong_type=True)
    if not hints or unknown:
        return resources
    try:
        return msgspec.structs.replace(resources, **hints)
    except ValueError as error:
        findings.add("invalid_resources", str(error), cause=error)
        return resources


def _job_kind(given: Any, findings: Findings) -> str:
    if not isinstance(given, str) or not given.strip():
        findings.add(
            "invalid_job_kind", f"kind must be a non-empty text, not {given!r}", wrong_type=True
        )
        return DEFAULT_KIND
    if given.strip().partition(":")[0] not in RECOMMENDED_KINDS:
        warnings.warn(
            f"job kind {given!r} is not one the platform knows: "
            f"those are {', '.join(RECOMMENDED_KINDS)}",
            stacklevel=3,
        )
    return given.strip()
