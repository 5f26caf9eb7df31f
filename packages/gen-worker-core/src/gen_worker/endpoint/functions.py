"""`inference_function` and `worker_function`: one decorated function, one endpoint function."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gen_worker.endpoint.annotations import list_item
from gen_worker.endpoint.callables import arguments_of, hints_of, locals_of, place_of, shape_of
from gen_worker.endpoint.options import (
    FunctionOptions,
    read_concurrency,
    read_function_options,
    read_function_resources,
    read_models,
)
from gen_worker.endpoint.problems import Findings
from gen_worker.endpoint.returns import read_output
from gen_worker.endpoint.signature import check_payload, read_signature
from gen_worker.resources import ResourceRequirements, Resources
from gen_worker.spec import DEFINITION_ATTRIBUTE, Batching, FunctionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.endpoint.callables import Argument
    from gen_worker.endpoint.options import Concurrency
    from gen_worker.endpoint.returns import Output
    from gen_worker.endpoint.signature import Signature
    from gen_worker.spec import Binding

__all__ = [
    "inference_function",
    "open_function",
    "report_list_answer",
    "worker_function",
]

F = TypeVar("F", bound="Callable[..., Any]")


@overload
def inference_function(fn: F) -> F: ...
@overload
def inference_function(
    fn: None = None,
    *,
    label: str | None = None,
    description: str | None = None,
    resources: Resources | ResourceRequirements | None = None,
    models: Mapping[str, Binding] | None = None,
    concurrency: Concurrency | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
) -> Callable[[F], F]: ...
def inference_function(
    fn: Any = None,
    *,
    label: str | None = None,
    description: str | None = None,
    resources: Resources | ResourceRequirements | None = None,
    models: Mapping[str, Binding] | None = None,
    concurrency: Concurrency | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
) -> Any:
    """Make a function an inference endpoint: `def paint(ctx, engine, ask: Ask) -> Reply`.

    Works bare and called. The function itself is returned, so tests call it directly.

    Args:
        fn: The function, when used bare.
        label: Short title for people.
        description: What it does, for people.
        resources: The hardware it needs.
        models: Bindings by parameter name; these parameters receive live models.
        concurrency: Older scheduling hint. Left out, it is `batched` for a function written
            `list[In] -> list[Out]`, which then handles several calls at once.
        name: Name to register instead of the function's own.
        timeout_ms: Milliseconds one call may take.
        rate_limit_per_invoker: Calls one invoker may have running at once.

    Raises:
        DefinitionError: The function cannot be an endpoint; every reason is listed.
    """
    options = FunctionOptions(name, label, description, timeout_ms, rate_limit_per_invoker)

    def decorate(function: F, scope: Mapping[str, Any] | None = None) -> F:
        scope = locals_of(1) if scope is None else scope
        return _define(
            function, "inference_function", options, scope, resources, models, concurrency
        )

    return decorate if fn is None else decorate(fn, locals_of(1))


@overload
def worker_function(resources: F) -> F: ...
@overload
def worker_function(
    resources: ResourceRequirements | Resources | None = None,
    *,
    label: str | None = None,
    description: str | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
) -> Callable[[F], F]: ...
def worker_function(
    resources: Any = None,
    *,
    label: str | None = None,
    description: str | None = None,
    name: str | None = None,
    timeout_ms: int | None = None,
    rate_limit_per_invoker: int | None = None,
) -> Any:
    """Make a function an endpoint whose models are annotated: `Annotated[T, ModelRef(...)]`.

    Works bare and called, and takes the function's resources as its only positional argument. The
    other options are those of `inference_function`.

    Raises:
        DefinitionError: The function cannot be an endpoint; every reason is listed.
    """
    options = FunctionOptions(name, label, description, timeout_ms, rate_limit_per_invoker)
    is_bare = callable(resources)

    def decorate(function: F, scope: Mapping[str, Any] | None = None) -> F:
        scope = locals_of(1) if scope is None else scope
        needs = None if is_bare else resources
        return _define(function, "worker_function", options, scope, needs, None, None)

    return decorate(resources, locals_of(1)) if is_bare else decorate


def open_function(function: Any, decorator: str) -> Findings:
    """Start the report on a function that a function decorator was put on.

    Raises:
        DefinitionTypeError: It is no function to begin with.
    """
    name = getattr(function, "__name__", repr(function))
    wrong, remedy = "", ""
    others = (type, staticmethod, classmethod, MethodType)
    if isinstance(function, others) or not callable(function):
        wrong = f"@{decorator} needs a function, not {function!r}"
        if isinstance(function, type):
            remedy = "decorate the class with @inference and its methods with @invocable"
    elif not hasattr(function, "__dict__"):
        wrong = f"@{decorator} needs a function written in Python, not {function!r}"
    file, line = place_of(function) if not wrong else ("", 0)
    findings = Findings(name, file=file, line=line)
    if wrong:
        findings.add("not_a_function", wrong, remedy, wrong_type=True)
    elif DEFINITION_ATTRIBUTE in vars(function):
        findings.add("decorated_twice", "is an endpoint function already", "keep one decorator")
    elif _is_method(function):
        findings.add(
            "not_a_function",
            f"@{decorator} is for functions, this is a method",
            "mark the method with @invocable and its class with @inference",
        )
    findings.raise_if_any()
    return findings


def _is_method(function: Any) -> bool:
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(owner) and not owner.endswith("<locals>")


def _define(
    function: F,
    decorator: str,
    options: FunctionOptions,
    scope: Mapping[str, Any],
    resources: Any,
    models: Any,
    concurrency: Any,
) -> F:
    findings = open_function(function, decorator)
    python_name = getattr(function, "__name__", type(function).__name__)
    fields = read_function_options(options, python_name, findings)
    needs = read_function_resources(resources, findings)
    bound = read_models(models, findings)
    found = len(findings)
    hints = hints_of(function, scope, findings)
    if len(findings) == found:
        arguments = arguments_of(function)
        signature = read_signature(arguments, hints, bound, findings)
        _report_unknown_models(bound, arguments, findings)
        if signature.payload_type is not None:
            check_payload(signature.payload_type, signature.parameters, needs, findings)
        output = read_output(shape_of(function), hints, findings, is_batched=signature.takes_list)
        mode = _concurrency(concurrency, signature, findings)
        batching = _batching(signature, output, hints, needs, findings)
    findings.raise_if_any()
    file, line = place_of(function)
    spec = FunctionSpec(
        python_name=python_name,
        kind="inference",
        decorator=decorator,
        module=getattr(function, "__module__", ""),
        qualname=getattr(function, "__qualname__", python_name),
        function=function,
        shape=output.shape,
        parameters=signature.parameters,
        payload_type=signature.payload_type,
        result_type=output.result_type,
        delta_type=output.delta_type,
        output_mode=output.mode,
        resources=needs,
        concurrency=mode,
        batching=batching,
        file=file,
        line=line,
        **fields,
    )
    setattr(function, DEFINITION_ATTRIBUTE, spec)
    return function


def _report_unknown_models(
    models: Mapping[str, Any], arguments: Iterable[Argument], findings: Findings
) -> None:
    known = {argument.name for argument in arguments}
    for name in models:
        if name not in known:
            findings.add(
                "unknown_model_parameter",
                f"models[{name!r}] names no parameter",
                f"add a parameter {name!r}, or remove the entry",
            )


def _concurrency(given: Any, signature: Signature, findings: Findings) -> Concurrency | None:
    read_concurrency(given, findings)
    if signature.takes_list and given in ("sequential", "concurrent"):
        findings.add(
            "invalid_concurrency",
            f"concurrency {given!r} contradicts a payload written list[...]",
            "leave concurrency out",
        )
    return "batched" if signature.takes_list else given


def _batching(
    signature: Signature,
    output: Output,
    hints: Mapping[str, Any],
    resources: Resources | ResourceRequirements,
    findings: Findings,
) -> Batching | None:
    """Return how a function that takes `list[In]` is batched; its resources say how much."""
    if not signature.takes_list:
        return None
    report_list_answer(signature, output, hints, findings)
    sizes = resources if isinstance(resources, ResourceRequirements) else ResourceRequirements()
    return Batching(
        window_ms=float(sizes.max_wait_ms or 0),
        max_batch=sizes.batch_size_max or sizes.batch_size_target or 1,
    )


def report_list_answer(
    signature: Signature, output: Output, hints: Mapping[str, Any], findings: Findings
) -> None:
    """Report a function that takes many payloads at once but does not answer in kind."""
    if not signature.takes_list:
        return
    if output.mode != "single" or output.shape != "sync":
        findings.add(
            "invalid_batching",
            "takes list[...], so it must be a plain function that returns list[...]",
        )
    elif "return" in hints and list_item(hints["return"]) is None:
        findings.add("return_type", "takes list[...], so it must return list[...]")
