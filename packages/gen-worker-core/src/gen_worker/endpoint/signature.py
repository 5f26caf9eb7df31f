"""Which parameter of a function receives what: context, payload, models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.endpoint.annotations import (
    bare_and_binding,
    is_binding,
    is_context,
    is_struct,
    list_item,
    show,
    wanted_context,
)
from gen_worker.spec import ContextParameter, ModelParameter, Parameter, PayloadParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.endpoint.callables import Argument
    from gen_worker.endpoint.problems import Findings
    from gen_worker.resources import ResourceRequirements, Resources
    from gen_worker.spec import EndpointKind

__all__ = [
    "Signature",
    "callable_by_name",
    "check_binding",
    "check_payload",
    "context_argument",
    "context_parameter",
    "read_signature",
    "report_unknown_fields",
]

_ONE_STRUCT = "annotate exactly one parameter after the context with a msgspec.Struct subclass"


class Signature(msgspec.Struct, frozen=True):
    """The parameters of a handler, sorted by what fills them."""

    parameters: tuple[Parameter, ...]
    payload_type: type[msgspec.Struct] | None
    """None when there is no usable payload; that is reported already."""
    takes_list: bool = False
    """Whether the payload is written `list[In]`: many calls handled at once."""


def read_signature(
    arguments: Sequence[Argument],
    hints: Mapping[str, Any],
    models: Mapping[str, Any],
    findings: Findings,
    *,
    kind: EndpointKind | None = None,
) -> Signature:
    """Sort the parameters of a handler (without `self`).

    Args:
        arguments: The parameters in order.
        hints: Resolved annotations by parameter name.
        models: What `models=` binds; values that are no bindings are reported elsewhere.
        findings: Receives the mistakes.
        kind: Endpoint kind whose context the first parameter receives; None accepts any context.
    """
    parameters: list[Parameter] = []
    payloads: list[tuple[str, Any]] = []
    unbound: list[str] = []
    is_batched = any(_takes_list(hints.get(argument.name, Any)) for argument in arguments[1:])
    context = context_argument(arguments, hints, findings, kind=kind, is_batched=is_batched)
    if context is not None:
        is_inference = kind in (None, "inference")
        plain = ContextParameter(context.name)
        parameters.append(plain if is_inference else context_parameter(context, hints))
    for argument in callable_by_name(arguments[1 if context else 0 :], findings):
        annotation, injected = bare_and_binding(hints.get(argument.name, Any))
        binding = models.get(argument.name, injected)
        if injected is not None and argument.name in models:
            findings.add(
                "bound_twice",
                f"parameter {argument.name!r} is bound in models= and in its annotation",
                "keep one of the two",
            )
        if is_binding(binding):
            parameters.append(ModelParameter(argument.name, binding, annotation))
        elif is_struct(annotation) or is_struct(list_item(annotation)):
            payloads.append((argument.name, annotation))
            parameters.append(PayloadParameter(argument.name, list_item(annotation) or annotation))
        elif argument.name not in models:
            unbound.append(argument.name)
    _report_payloads(payloads, unbound, findings)
    if len(payloads) != 1:
        return Signature(tuple(parameters), None)
    item = list_item(payloads[0][1])
    return Signature(tuple(parameters), item or payloads[0][1], item is not None)


def context_argument(
    arguments: Sequence[Argument],
    hints: Mapping[str, Any],
    findings: Findings,
    *,
    kind: EndpointKind | None = None,
    is_batched: bool = False,
    is_reserved: bool = False,
) -> Argument | None:
    """Return the parameter that receives the context; None, and a mistake, when there is none."""
    first = arguments[0] if arguments else None
    annotation = bare_and_binding(hints.get(first.name, Any))[0] if first else Any
    if first is None or not first.takes_position or is_struct(annotation):
        found = f"{first.name!r} is not one" if first else "there are no parameters"
        findings.add(
            "context_missing",
            f"the first parameter must receive the context, {found}",
            "begin the parameters with ctx",
        )
        return None
    listed = list_item(annotation)
    if not is_context(annotation if listed is None else listed, kind):
        received = "the contexts of a batch" if is_batched else "the context"
        if kind:
            received += f" of {kind} functions"
        wanted = "list[RequestContext]" if is_batched else "a context class of gen_worker"
        findings.add(
            "context_annotation",
            f"{first.name!r} receives {received}, not {show(annotation)}",
            f"annotate it with {wanted}, or leave the annotation out",
            wrong_type=is_reserved,
        )
    if first.name == "compute":
        _report_compute(findings)
    return first


def context_parameter(argument: Argument, hints: Mapping[str, Any]) -> ContextParameter:
    """Return the parameter of a context that was found fit."""
    annotation = bare_and_binding(hints.get(argument.name, Any))[0]
    return ContextParameter(argument.name, wanted_context(annotation))


def _takes_list(annotation: Any) -> bool:
    return is_struct(list_item(bare_and_binding(annotation)[0]))


def _report_compute(findings: Findings) -> None:
    findings.add(
        "reserved_parameter",
        "a parameter must not be named 'compute'",
        "read ctx.compute instead",
    )


def callable_by_name(arguments: Iterable[Argument], findings: Findings) -> list[Argument]:
    """Return the arguments that can be filled by name; report the others."""
    usable = []
    for argument in arguments:
        if argument.how in ("variadic", "keywords"):
            stars = "*" if argument.how == "variadic" else "**"
            findings.add(
                "variadic_parameter",
                f"nothing fills {stars}{argument.name}",
                "name every parameter",
            )
        elif argument.how == "positional_only":
            findings.add(
                "positional_only_parameter",
                f"parameter {argument.name!r} cannot be passed by name",
                "move the / directly behind the context",
            )
        elif argument.name == "compute":
            _report_compute(findings)
        else:
            usable.append(argument)
    return usable


def _report_payloads(
    payloads: Sequence[tuple[str, Any]], unbound: Sequence[str], findings: Findings
) -> None:
    if len(payloads) > 1:
        shown = ", ".join(f"{name}: {show(annotation)}" for name, annotation in payloads)
        findings.add("payload_ambiguous", f"only one payload is possible, found {shown}")
    if not payloads:
        # One of the unbound parameters is most likely the payload, so they are not reported too.
        names = " and ".join(map(repr, unbound))
        found = f": {names} {'are' if len(unbound) > 1 else 'is'} none" if unbound else ""
        findings.add("payload_missing", f"no parameter is a payload{found}", _ONE_STRUCT)
        return
    for name in unbound:
        findings.add(
            "unbound_parameter",
            f"nothing supplies parameter {name!r}",
            "bind a model to it, or remove it",
        )


def check_payload(
    payload_type: type[msgspec.Struct],
    parameters: Iterable[Parameter],
    resources: Resources | ResourceRequirements,
    findings: Findings,
) -> None:
    """Report what the payload's fields contradict: reserved names, cost hints, bindings."""
    fields = dict.fromkeys(
        (*payload_type.__struct_encode_fields__, *payload_type.__struct_fields__)
    )
    if "_models" in fields:
        findings.add(
            "reserved_field",
            f"payload {show(payload_type)} must not have a field '_models'",
            "callers choose models under that name; rename the field",
        )
    report_unknown_fields(resources, fields, f"payload {show(payload_type)}", findings)
    for parameter in parameters:
        if isinstance(parameter, ModelParameter):
            check_binding(parameter.binding, parameter.name, payload_type, findings)


def report_unknown_fields(
    resources: Resources | ResourceRequirements,
    fields: Iterable[str],
    owner: str,
    findings: Findings,
) -> None:
    """Report cost hints whose first path element is none of `fields`."""
    known = tuple(fields)
    for hint in ("vram_scales_with", "runtime_scales_with"):
        for path in getattr(resources, hint, ()):
            head = path.split(".", 1)[0].split("[", 1)[0]
            if head not in known:
                findings.add(
                    "unknown_payload_field",
                    f"{hint} entry {path!r} begins with no field of {owner}",
                    f"its fields are {', '.join(map(repr, known)) or 'none'}",
                )


def check_binding(
    binding: Any, parameter: str, payload_type: type[msgspec.Struct] | None, findings: Findings
) -> None:
    """Ask a binding whether it fits, and report its refusal under its own code if it has one."""
    try:
        binding.check(parameter, payload_type)
    except (ValueError, TypeError) as error:
        findings.add(
            str(getattr(error, "code", "") or "binding_mismatch"),
            f"model {parameter!r}: {error}",
            wrong_type=isinstance(error, TypeError),
            cause=error,
        )
