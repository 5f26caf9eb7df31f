"""What a decorator attaches: one frozen record per function, whatever the dialect.

Discovery, the engine, the command line and the lock all read these records and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from gen_worker.resources import ResourceRequirements, Resources

if TYPE_CHECKING:
    from gen_worker.context import RequestContext
    from gen_worker.ports import Ports

__all__ = [
    "Batching",
    "Binding",
    "Call",
    "ClassSpec",
    "ContextParameter",
    "EndpointKind",
    "FunctionSpec",
    "Kind",
    "ModelParameter",
    "OutputMode",
    "Parameter",
    "PayloadFieldParameter",
    "PayloadParameter",
    "ProvidedParameter",
    "Shape",
    "StageSpec",
    "field_default",
    "payload_type_of",
    "specs_of",
    "whole_payload_of",
]

EndpointKind = Literal["inference", "training", "dataset", "conversion"]
Shape = Literal["sync", "async", "generator", "async_generator"]
OutputMode = Literal["single", "incremental"]

DEFINITION_ATTRIBUTE = "__gen_worker__"
"""Where a decorator leaves its `FunctionSpec` (on a function) or `ClassSpec` (on a class)."""


@runtime_checkable
class Binding(Protocol):
    """A declared model dependency. `gen_worker.models` implements it; core only calls it."""

    @property
    def slot_name(self) -> str:
        """Stable key the hub may re-point; empty means the parameter's name."""
        ...

    @property
    def dialect(self) -> Literal["binding", "injection"]:
        """Which part of the lock describes it: `bindings`, or the older `injection_json`."""
        ...

    @property
    def is_per_call(self) -> bool:
        """Whether the payload decides what is loaded, so that it never reaches `setup`."""
        ...

    def check(self, parameter: str, payload_type: type | None) -> None:
        """Raise `ValueError` or `TypeError` when this cannot be bound to `parameter`."""
        ...

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return what to load for one call: `{ref, tag, flavor, provider, …}`.

        Raises:
            ValidationError: The payload's selector is not a key of the table.
            OverrideError: An override is given that the author did not allow.
        """
        ...

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        """Return the table written to endpoint.lock; no None values."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the descriptor `gen-worker describe` prints."""
        ...


class ContextParameter(msgspec.Struct, frozen=True):
    """Receives the call's context. Passed by position, so its name is free."""

    name: str
    wanted: Any = None
    """The class of producers' contexts it is annotated with; None leaves that to the kind."""


class PayloadParameter(msgspec.Struct, frozen=True):
    """Receives the decoded payload."""

    name: str
    type: Any


class PayloadFieldParameter(msgspec.Struct, frozen=True):
    """Receives one field of the payload object, decoded by itself."""

    name: str
    type: Any
    default: Any = msgspec.NODEFAULT


class ModelParameter(msgspec.Struct, frozen=True):
    """Receives a live model."""

    name: str
    binding: Binding
    annotation: Any = Any


class ProvidedParameter(msgspec.Struct, frozen=True):
    """Receives what the endpoint kind supplies under this name."""

    name: str
    annotation: Any = Any
    default: Any = msgspec.field(default_factory=lambda: msgspec.NODEFAULT)
    """What it is where the payload says nothing of it; NODEFAULT for none."""


Parameter = (
    ContextParameter | PayloadParameter | PayloadFieldParameter | ModelParameter | ProvidedParameter
)


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """Calls collected into one: at most `max_batch`, waiting at most `window_ms` for more."""

    window_ms: float
    max_batch: int


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    python_name: str
    name: str
    gpu_class: Literal["small", "large"] = "large"


class ClassSpec(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A class endpoint: set up once, then many functions on the one instance."""

    cls: type
    module: str
    name: str
    kind: EndpointKind
    functions: tuple[FunctionSpec, ...]
    setup_parameters: tuple[ModelParameter, ...] = ()
    """Fixed models `setup` receives, by name."""
    has_setup: bool = True
    has_warmup: bool = False
    has_shutdown: bool = False
    archetype: Literal["SerialWorker", "BatchedWorker"] = "SerialWorker"
    runtime: str | None = None
    stages: tuple[StageSpec, ...] = ()
    resources: Resources = Resources()
    label: str | None = None
    description: str | None = None
    file: str = ""
    line: int = 0


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One function a caller can invoke."""

    name: str
    """Routable name: the slug of the registered name."""
    registered_name: str
    """The `name=` the author gave, else the Python name."""
    python_name: str
    kind: EndpointKind
    decorator: str
    """As written to the lock: `inference_function`, `@inference.function`, …"""
    module: str
    qualname: str
    function: Callable[..., Any]
    """The author's function; for a class endpoint the unbound method."""
    shape: Shape
    parameters: tuple[Parameter, ...]
    payload_type: Any
    """Struct subclass; None when the function takes single payload fields instead."""
    result_type: Any = None
    """Struct subclass of a single output; None when it is streamed or not declared."""
    delta_type: Any = None
    """Struct subclass of each streamed item; None when not streamed or not declared."""
    output_mode: OutputMode = "single"
    owner: type | None = None
    """Class of a class endpoint; its `ClassSpec` is `specs_of(owner)`."""
    resources: Resources | ResourceRequirements = Resources()
    sub_kind: str | None = None
    job_kind: str | None = None
    """`kind=` of a `training_function`."""
    label: str | None = None
    description: str | None = None
    timeout_ms: int | None = None
    rate_limit_per_invoker: int | None = None
    """Calls one invoker may have running at once here; more are refused as overloaded."""
    concurrency: Literal["sequential", "batched", "concurrent"] | None = None
    allowed_shapes: tuple[tuple[int, ...], ...] = ()
    batching: Batching | None = None
    prefer_distilled: bool = False
    calibration: Mapping[str, str] | None = None
    """Policy per quantization scheme, `*` for all others: required, beneficial or unsupported."""
    case: str | None = None
    """Row of `parametrize=` this function stands for."""
    file: str = ""
    line: int = 0

    @property
    def is_streamed(self) -> bool:
        return self.output_mode == "incremental"

    @property
    def is_async(self) -> bool:
        return self.shape in ("async", "async_generator")

    @property
    def models(self) -> dict[str, ModelParameter]:
        """Models this function itself receives, by parameter name."""
        return {p.name: p for p in self.parameters if isinstance(p, ModelParameter)}

    @property
    def bindings(self) -> dict[str, ModelParameter]:
        """Every model behind this function: those of `setup`, then its own."""
        owner = class_spec_of(self.owner)
        shared = {p.name: p for p in owner.setup_parameters} if owner else {}
        return shared | self.models


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint kind sees of one call."""

    spec: FunctionSpec
    request_id: str
    raw_payload: Mapping[str, Any]


class Kind(Protocol):
    """One endpoint kind. Published by a package through the `gen_worker.kinds` entry points."""

    name: EndpointKind

    def context(
        self, ports: Ports, *, wanted: type[RequestContext] | None = None, **identity: Any
    ) -> RequestContext:
        """Build the context its functions receive.

        Args:
            ports: The host.
            wanted: The class that the function asks for; an instance of it, where that is one of
                the kind's, too.
            **identity: `RequestContext`'s keywords.
        """
        ...

    def provide(self, parameter: ProvidedParameter, ctx: RequestContext) -> Any:
        """Return the value of a parameter this kind supplies."""
        ...

    async def before(self, call: Call, ctx: RequestContext) -> None:
        """Prepare what the function needs beyond models; runs before the slot is taken."""
        ...

    async def finish(self, call: Call, ctx: RequestContext, result: Any) -> Any:
        """Turn the function's results into the reported value; runs after the slot is released."""
        ...


def specs_of(obj: Any) -> tuple[FunctionSpec, ...]:
    """Return the functions a decorated function or class defines; empty for anything else."""
    definition = getattr(obj, "__dict__", {}).get(DEFINITION_ATTRIBUTE)
    if isinstance(definition, FunctionSpec):
        if definition.function is obj:
            return (definition,)
        # functools.wraps copied the definition onto a wrapper, which is what has to be called.
        return (msgspec.structs.replace(definition, function=obj),)
    if isinstance(definition, ClassSpec):
        return definition.functions
    return ()


def payload_type_of(spec: FunctionSpec) -> Any:
    """Return the type of a function's payload; for a function of single fields a record of them."""
    if spec.payload_type is not None:
        return spec.payload_type
    fields = [
        (p.name, p.type, field_default(p.default))
        for p in spec.parameters
        if isinstance(p, PayloadFieldParameter)
    ]
    return msgspec.defstruct(spec.python_name, fields, kw_only=True, module=spec.module)


def whole_payload_of(spec: FunctionSpec) -> type[msgspec.Struct] | None:
    """Return the type of a job's parameter `payload: Struct`; None when it has none.

    Its value is the whole payload, unless that has a field of this name.
    """
    for parameter in spec.parameters if spec.job_kind is not None else ():
        if isinstance(parameter, PayloadFieldParameter) and parameter.name == "payload":
            kind = parameter.type
            return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None
    return None


def field_default(value: Any) -> Any:
    """Return a field's default; one that calls could change is copied for each."""
    is_struct = isinstance(value, msgspec.Struct) and not value.__struct_config__.frozen
    if not is_struct and not (isinstance(value, (list, dict, set, bytearray)) and value):
        return value
    from copy import deepcopy

    return msgspec.field(default_factory=lambda: deepcopy(value))


def class_spec_of(cls: type | None) -> ClassSpec | None:
    """Return the definition a class decorator left on `cls` itself, never on a base."""
    definition = vars(cls).get(DEFINITION_ATTRIBUTE) if cls is not None else None
    return definition if isinstance(definition, ClassSpec) else None
