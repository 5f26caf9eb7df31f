"""What callers send to a job, as one type, and the record that a decorated job carries."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from gen_worker.spec import (
    PayloadFieldParameter,
    ProvidedParameter,
    field_default,
    payload_type_of,
    whole_payload_of,
)
from gen_worker.types import DatasetRef, DestinationRepo, SourceRepo

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping

    from gen_worker.spec import FunctionSpec

__all__ = ["TrainingFunctionSpec", "attach_record", "reads_model", "request_type_of"]

_ABSENT = msgspec.NODEFAULT


def request_type_of(spec: FunctionSpec) -> Any:
    """Return the type of what callers send to a function; of most it is the payload's.

    A `training_function` is also sent what it is provided with: `source` if it has one,
    `destination` in any case, and models, datasets and lists by the names of its parameters.
    """
    if spec.decorator != "training_function":
        return payload_type_of(spec)
    fields: dict[str, tuple[Any, Any]] = {}
    whole = whole_payload_of(spec)
    for parameter in spec.parameters:
        if isinstance(parameter, ProvidedParameter):
            fields[parameter.name] = _provided_field(parameter)
        elif whole is not None and parameter.name == "payload":
            for one in msgspec.structs.fields(whole):
                fields.setdefault(one.encode_name, (one.type, _default_of(one)))
        elif isinstance(parameter, PayloadFieldParameter):
            fields[parameter.name] = (parameter.type, parameter.default)
    fields["destination"] = (DestinationRepo, _ABSENT)
    return msgspec.defstruct(
        spec.python_name,
        [(name, kind, field_default(default)) for name, (kind, default) in fields.items()],
        kw_only=True,
        module=spec.module,
    )


def _provided_field(parameter: ProvidedParameter) -> tuple[Any, Any]:
    name, annotation = parameter.name, parameter.annotation
    is_optional = type(None) in get_args(annotation) or parameter.default is not _ABSENT
    if name == "datasets":
        return list[DatasetRef], []
    if name in ("specs", "outputs"):
        return annotation, [] if parameter.default is _ABSENT else parameter.default
    if name == "source":
        return (SourceRepo | None, None) if is_optional else (SourceRepo, _ABSENT)
    if is_optional:
        return SourceRepo | str | None, None
    return SourceRepo | str, _ABSENT


def _default_of(field: Any) -> Any:
    if field.default_factory is not _ABSENT:
        return field.default_factory()
    return field.default


class TrainingFunctionSpec:
    """A job, as `function.__training_spec__` tells of it; `gen_worker.spec` has all there is."""

    def __init__(self, spec: FunctionSpec) -> None:
        """Look at a definition; schemas are made when they are asked for."""
        self._spec = spec
        self.fn: Callable[..., Any] = spec.function
        self.kind = spec.job_kind or ""
        self.calibration: Mapping[str, str] | None = spec.calibration

    def __repr__(self) -> str:
        return f"<TrainingFunctionSpec {self._spec.name} {self.kind}>"

    @property
    def signature(self) -> inspect.Signature:
        """Parameters of the author's function, their annotations as they are written."""
        import inspect

        return inspect.signature(self.fn)

    @property
    def ref_registry(self) -> dict[str, str]:
        """Wire fields that name models, with the parameters that read them."""
        return {
            p.name: p.name
            for p in self._spec.parameters
            if isinstance(p, ProvidedParameter) and reads_model(p)
        }

    @property
    def other_params(self) -> tuple[PayloadFieldParameter, ...]:
        """Parameters that are decoded from the payload fields of their names."""
        return tuple(p for p in self._spec.parameters if isinstance(p, PayloadFieldParameter))

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of what callers send.

        Raises:
            SchemaError: A parameter's type has none.
        """
        from gen_worker.schema import json_schema

        return json_schema(request_type_of(self._spec))


def reads_model(parameter: ProvidedParameter) -> bool:
    """Tell whether a parameter is a `Source`: one of the kind's own names that is none, is not."""
    return parameter.name not in ("destination", "specs", "datasets", "outputs")


def attach_record(function: Any, spec: FunctionSpec) -> None:
    """Leave on a job what tools look for: its record, and single facts of it."""
    function.__training_spec__ = TrainingFunctionSpec(spec)
    function._is_training_function = True
    function._worker_resources = spec.resources
    function._concurrency_mode = spec.concurrency
    function._function_label = spec.label
    function._function_description = spec.description
    function._calibration_policy = spec.calibration
