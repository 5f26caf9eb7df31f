"""Turns a decorated class into a `ClassSpec` with one `FunctionSpec` per function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gen_worker.endpoint.annotations import is_binding
from gen_worker.endpoint.callables import shape_of
from gen_worker.endpoint.cases import read_cases
from gen_worker.endpoint.class_options import ClassFacts, read_class_options
from gen_worker.endpoint.hooks import read_hooks
from gen_worker.endpoint.method_definition import define_method
from gen_worker.endpoint.methods import StageOptions, marked_methods
from gen_worker.endpoint.options import read_route
from gen_worker.endpoint.problems import Findings
from gen_worker.spec import DEFINITION_ATTRIBUTE, ClassSpec, ModelParameter, StageSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from gen_worker.endpoint.cases import Case
    from gen_worker.endpoint.class_options import ClassOptions
    from gen_worker.endpoint.hooks import Hooks
    from gen_worker.endpoint.methods import MarkedMethod
    from gen_worker.spec import EndpointKind, FunctionSpec

__all__ = ["define_class"]

C = TypeVar("C", bound=type)


def define_class(cls: C, kind: EndpointKind, options: ClassOptions, frame: FrameType) -> C:
    """Check a class and leave its definition on it.

    Args:
        cls: What the decorator was put on.
        kind: Kind of all its functions.
        options: What the decorator was given.
        frame: Where the decorator stands.

    Raises:
        DefinitionError: The class cannot be an endpoint; every reason is listed.
    """
    name = getattr(cls, "__name__", repr(cls))
    findings = Findings(name, file=frame.f_code.co_filename, line=frame.f_lineno)
    if not isinstance(cls, type):
        decorator = "batched_inference" if options.is_batched_class else kind
        findings.add("not_a_class", f"@{decorator} needs a class, not {cls!r}", wrong_type=True)
    elif DEFINITION_ATTRIBUTE in vars(cls):
        findings.add("decorated_twice", "is an endpoint class already", "keep one decorator")
    findings.raise_if_any()
    scope = {key: value for key, value in vars(cls).items() if isinstance(value, type)}
    if frame.f_locals is not frame.f_globals:
        scope |= frame.f_locals
    facts = read_class_options(cls, kind, options, scope, findings)
    spec = _read_class(facts, options.parametrize, (findings, frame.f_lineno))
    findings.raise_if_any()
    setattr(cls, DEFINITION_ATTRIBUTE, spec)
    return cls


def _read_class(facts: ClassFacts, parametrize: Any, place: tuple[Findings, int]) -> ClassSpec:
    findings, line = place
    marked = list(marked_methods(facts.cls))
    methods = [method for method in marked if not isinstance(method.mark, StageOptions)]
    if not methods:
        findings.add(
            "no_functions",
            "has no method marked as a function",
            "mark one with @invocable"
            if facts.kind == "inference"
            else f"mark one with @{facts.decorator}.function",
        )
    hooks = read_hooks(
        facts.cls,
        facts.models,
        facts.scope,
        findings,
        is_serial=facts.archetype == "SerialWorker",
        has_engine=facts.runtime is not None,
    )
    _check_concurrency(facts, hooks, methods, findings)
    rows = read_cases(parametrize, len(methods), facts.models, findings)
    stages = _stages(marked, facts, findings)
    functions = _functions(facts, hooks, methods, rows, findings)
    _report_duplicates(functions, findings)
    spec = _class_spec(facts, hooks, functions)
    return msgspec.structs.replace(spec, stages=stages, line=line)


def _functions(
    facts: ClassFacts,
    hooks: Hooks,
    methods: Sequence[MarkedMethod],
    rows: Sequence[Case],
    findings: Findings,
) -> tuple[FunctionSpec, ...]:
    """Define every method, and every row of it."""
    functions: list[FunctionSpec] = []
    used: set[str] = set()
    for method in methods:
        definition = define_method(facts, method, findings)
        used |= {p.name for p in definition.parameters if isinstance(p, ModelParameter)}
        for row in rows or (None,):
            spec = definition.function(row, findings)
            if spec is not None:
                functions.append(_with_own_class(spec, row, facts, hooks))
    for name, binding in facts.models.items():
        if is_binding(binding) and binding.is_per_call and methods and name not in used:
            findings.add(
                "unknown_model_parameter",
                f"models[{name!r}] is chosen per call, but no method takes it",
                f"add a parameter {name!r} after the payload",
            )
    return tuple(functions)


def _with_own_class(
    spec: FunctionSpec, row: Case | None, facts: ClassFacts, hooks: Hooks
) -> FunctionSpec:
    """Give a row that replaces a model of `setup` a class, and so an instance, of its own."""
    if row is None or row.model is None or not hooks.setup_parameters:
        return spec
    cls = type(facts.cls)(facts.cls.__name__, (facts.cls,), {"__module__": facts.cls.__module__})
    cls.__qualname__ = facts.cls.__qualname__
    spec = msgspec.structs.replace(spec, owner=cls)
    slot = hooks.setup_parameters[0]
    parameters = (msgspec.structs.replace(slot, binding=row.model),)
    owner = _class_spec(facts, msgspec.structs.replace(hooks, setup_parameters=parameters), (spec,))
    setattr(cls, DEFINITION_ATTRIBUTE, msgspec.structs.replace(owner, cls=cls))
    return spec


def _class_spec(facts: ClassFacts, hooks: Hooks, functions: tuple[FunctionSpec, ...]) -> ClassSpec:
    return ClassSpec(
        cls=facts.cls,
        module=facts.cls.__module__,
        name=facts.cls.__name__,
        kind=facts.kind,
        functions=functions,
        setup_parameters=hooks.setup_parameters,
        has_setup=hooks.has_setup,
        has_warmup=hooks.has_warmup,
        has_shutdown=hooks.has_shutdown,
        archetype=facts.archetype,
        runtime=facts.runtime,
        resources=facts.resources,
        label=facts.label,
        description=facts.description,
        file=facts.file,
    )


def _check_concurrency(
    facts: ClassFacts, hooks: Hooks, methods: Sequence[MarkedMethod], findings: Findings
) -> None:
    """Report what needs async code without having it, and the other way round."""
    shapes = {shape_of(method.function) for method in methods}
    is_async = bool(shapes & {"async", "async_generator"})
    if facts.runtime is not None and methods and not is_async and not hooks.is_setup_async:
        findings.add(
            "invalid_runtime",
            f"runtime {facts.runtime!r} shares one event loop, but nothing here is async",
            "make the methods async",
        )
    if facts.batching is not None and shapes - {"sync"}:
        findings.add(
            "invalid_batching",
            "calls are collected for plain methods that return one struct per call",
            "make the methods sync and single-output, or drop batch_window_ms and max_batch",
        )


def _stages(
    marked: Sequence[MarkedMethod], facts: ClassFacts, findings: Findings
) -> tuple[StageSpec, ...]:
    stages: list[StageSpec] = []
    slugs: dict[str, str] = {}
    for method in marked:
        mark = method.mark
        if not isinstance(mark, StageOptions):
            continue
        name, slug = read_route(mark.name, method.python_name, findings, "stage name")
        if facts.decorator == "batched_inference":
            findings.add("invalid_stage", f"stage {name!r}: batched classes have no stages")
        if mark.gpu_class not in ("small", "large"):
            findings.add(
                "invalid_stage",
                f"stage {name!r}: gpu_class must be 'small' or 'large', not {mark.gpu_class!r}",
            )
        if slug and slug in slugs:
            findings.add(
                "duplicate_name", f"stages {slugs[slug]!r} and {name!r} are both named {slug!r}"
            )
        slugs.setdefault(slug, name)
        stages.append(
            StageSpec(python_name=method.python_name, name=slug, gpu_class=mark.gpu_class)
        )
    return tuple(stages)


def _report_duplicates(functions: Sequence[FunctionSpec], findings: Findings) -> None:
    holders: dict[str, FunctionSpec] = {}
    for spec in functions:
        first = holders.setdefault(spec.name, spec)
        if first is not spec and spec.case is None:
            findings.add(
                "duplicate_name",
                f"methods {first.python_name!r} and {spec.python_name!r} "
                f"are both routed as {spec.name!r}",
                "give one of them another name=",
            )
