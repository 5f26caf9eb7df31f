"""One marked method of a class endpoint, read once and turned into its functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.endpoint.annotations import is_binding, is_struct
from gen_worker.endpoint.callables import arguments_of, hints_of, place_of, shape_of
from gen_worker.endpoint.class_options import ClassFacts
from gen_worker.endpoint.functions import report_list_answer
from gen_worker.endpoint.methods import MarkedMethod
from gen_worker.endpoint.options import FunctionOptions, read_function_options
from gen_worker.endpoint.returns import Output, read_output
from gen_worker.endpoint.signature import Signature, check_payload, read_signature
from gen_worker.names import slugify_name
from gen_worker.spec import FunctionSpec, ModelParameter, PayloadParameter

if TYPE_CHECKING:
    from gen_worker.endpoint.cases import Case
    from gen_worker.endpoint.problems import Findings
    from gen_worker.spec import Batching, Parameter

__all__ = ["MethodDefinition", "define_method"]


class MethodDefinition(msgspec.Struct, frozen=True):
    """What is known about a method; `function` makes a spec of it, once per row."""

    facts: ClassFacts
    method: MarkedMethod
    fields: Mapping[str, Any]
    signature: Signature | None
    """None when the method is too broken to say more; that is reported."""
    output: Output | None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.signature.parameters if self.signature else ()

    def function(self, row: Case | None, findings: Findings) -> FunctionSpec | None:
        """Return the function of one row (or of the method itself); None when it is broken."""
        if self.signature is None or self.output is None:
            return None
        facts = self.facts
        file, line = place_of(self.method.function)
        inside = findings.at(f"{facts.cls.__name__}.{self.method.python_name}", file, line)
        payload_type = self.signature.payload_type
        resources = facts.resources
        name: dict[str, str] = {}
        if row is not None:
            payload_type = row.input if is_struct(row.input) else payload_type
            resources = row.resources or resources
            name = {
                "registered_name": row.name,
                "name": slugify_name(str(row.name)),
                "case": row.name,
            }
        parameters = tuple(_for_row(p, payload_type, row) for p in self.parameters)
        if payload_type is not None:
            check_payload(payload_type, parameters, resources, inside)
        if len(findings):
            return None
        return FunctionSpec(
            **{**self.fields, **name},
            python_name=self.method.python_name,
            kind=facts.kind,
            decorator=f"@{facts.decorator}.function",
            module=facts.cls.__module__,
            qualname=f"{facts.cls.__qualname__}.{self.method.python_name}",
            function=self.method.function,
            shape=self.output.shape,
            parameters=parameters,
            payload_type=payload_type,
            result_type=self.output.result_type,
            delta_type=self.output.delta_type,
            output_mode=self.output.mode,
            owner=facts.cls,
            resources=resources,
            sub_kind=facts.sub_kind,
            batching=_batching(facts, parameters),
            prefer_distilled=facts.prefer_distilled,
            calibration=facts.calibration,
            file=file,
            line=line,
        )


def _for_row(parameter: Parameter, payload_type: Any, row: Case | None) -> Parameter:
    if isinstance(parameter, PayloadParameter):
        return PayloadParameter(parameter.name, payload_type)
    if isinstance(parameter, ModelParameter) and row is not None and row.model is not None:
        return ModelParameter(parameter.name, row.model, parameter.annotation)
    return parameter


def _batching(facts: ClassFacts, parameters: tuple[Parameter, ...]) -> Batching | None:
    """Return the class's batching; calls whose model is chosen per call cannot share a batch."""
    has_models = any(isinstance(parameter, ModelParameter) for parameter in parameters)
    return None if has_models else facts.batching


def define_method(facts: ClassFacts, method: MarkedMethod, findings: Findings) -> MethodDefinition:
    """Read a marked method and report what is wrong with it."""
    assert isinstance(method.mark, FunctionOptions)
    file, line = place_of(method.function)
    inside = findings.at(f"{facts.cls.__name__}.{method.python_name}", file, line)
    fields = read_function_options(method.mark, method.python_name, inside)
    fields["label"] = fields["label"] or facts.label
    fields["description"] = fields["description"] or facts.description
    fields["allowed_shapes"] = fields["allowed_shapes"] or facts.allowed_shapes
    if isinstance(method.function, (staticmethod, classmethod)):
        inside.add(
            "not_a_function",
            f"is a {type(method.function).__name__}",
            "write a plain method that takes self",
            wrong_type=True,
        )
        return MethodDefinition(facts, method, fields, None, None)
    _check_shape(facts, method, inside)
    found = len(findings)
    hints = hints_of(method.function, facts.scope, inside)
    if len(findings) > found:
        return MethodDefinition(facts, method, fields, None, None)
    arguments = arguments_of(method.function)
    if arguments and arguments[0].name == "ctx":
        inside.add("context_missing", "has no self", "write self before the context")
        return MethodDefinition(facts, method, fields, None, None)
    arguments = arguments[1:]
    models = {k: b for k, b in facts.models.items() if not is_binding(b) or b.is_per_call}
    signature = read_signature(arguments, hints, models, inside, kind=facts.kind)
    output = read_output(
        shape_of(method.function),
        hints,
        inside,
        kind=facts.kind,
        is_batched=signature.takes_list,
    )
    if facts.batching is None or output.shape == "sync":  # else the class reports it
        report_list_answer(signature, output, hints, inside)
    if signature.takes_list and _batching(facts, signature.parameters) is None:
        inside.add(
            "invalid_batching",
            "takes list[...], but its calls are not collected into batches",
            "give the class batch_window_ms and max_batch, and the method no models of its own",
        )
    return MethodDefinition(facts, method, fields, signature, output)


def _check_shape(facts: ClassFacts, method: MarkedMethod, findings: Findings) -> None:
    shape = shape_of(method.function)
    must_stream = facts.decorator == "batched_inference" or method.mark.must_stream  # type: ignore[union-attr]  # define_method checked it
    if must_stream and shape != "async_generator":
        findings.add(
            "not_a_stream",
            "a batched method must be an async generator",
            "write async def and yield the items",
            wrong_type=True,
        )
    if facts.kind != "inference" and shape in ("async", "async_generator"):
        findings.add(
            "async_not_allowed", f"a {facts.kind} method must not be async", "write a plain def"
        )
