"""Everything about one function that can be worked out before its first call."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from gen_worker.constraints import compile_clamps
from gen_worker.file_values import file_plan
from gen_worker.kinds import InferenceKind, kind_named
from gen_worker.runtime.engine.payloads import decoder
from gen_worker.runtime.engine.slots import SlotQueue
from gen_worker.spec import (
    ContextParameter,
    ModelParameter,
    PayloadFieldParameter,
    PayloadParameter,
    ProvidedParameter,
    payload_type_of,
    whole_payload_of,
)
from gen_worker.streaming import Done, Error, IncrementalTokenDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.context import RequestContext
    from gen_worker.runtime.engine.lifecycle import Endpoint
    from gen_worker.runtime.engine.payloads import Message
    from gen_worker.spec import FunctionSpec, Kind

__all__ = ["Plan"]

_REPO_FIELDS = frozenset({"source", "destination", "destination_repo"})


class Plan:
    """One function, ready to be called: decoders, checks and where each argument comes from."""

    def __init__(self, spec: FunctionSpec, endpoint: Endpoint | None) -> None:
        """Look a function through.

        Args:
            spec: What its decorator left.
            endpoint: Its class; None for a plain function.

        Raises:
            FunctionUnavailableError: The package that runs its kind is not installed.
            TypeError: A marker in its payload sits where it means nothing.
        """
        self.spec = spec
        self.name = spec.name
        self.endpoint = endpoint
        self.kind = kind_named(spec.kind)
        self.is_inference = isinstance(self.kind, InferenceKind)
        """Other kinds prepare and finish their calls; what they yield is no stream."""
        self.new_context = _context_maker(spec, self.kind)
        self.is_async = spec.is_async
        self.is_generator = spec.shape in ("generator", "async_generator")
        self.is_streamed = self.is_generator and self.is_inference
        self.models = spec.models
        self.bindings = spec.bindings
        self.needs_gpu = spec.resources.needs_gpu
        self.timeout_ms = spec.timeout_ms
        self.rate_limit = spec.rate_limit_per_invoker
        self.function = spec.function
        self.lane = SlotQueue(spec.name) if spec.concurrency == "sequential" else None
        self.payload_type = payload_type_of(spec)
        self._decode = self._decoder()
        self._clamp = compile_clamps(self.payload_type)
        self.input_files = file_plan(self.payload_type)
        self.read: Callable[[Message], Any] = (
            self._decode if self._clamp is None and self.input_files is None else self._read
        )
        """Decodes, clamps, and drops what a caller must not choose; raises `ValidationError`."""
        produced = spec.delta_type if self.is_streamed else spec.result_type
        self.output_files = (
            file_plan(Any if produced is None else produced, has_untyped=True)
            if self.is_inference
            else None
        )
        self._expected = _checkable(produced)
        self.item_type = _plain_item_type(self._expected)
        """What is yielded as a rule: such an item is an item and needs no look."""
        self._call_parameters = tuple(
            p for p in spec.parameters if not isinstance(p, ContextParameter)
        )
        self._is_positional = _takes_payload_second(spec)
        self.repo_fields = _repo_fields(self.payload_type) if self.is_inference else frozenset()
        """Where the payload says what `ctx.source` and `ctx.destination` are; the other kinds look
        themselves."""
        self.runs_directly = self._needs_nothing()
        """Whether a call needs a thread or a task and nothing else, so that it is decode, call and
        encode."""

    def _decoder(self) -> Callable[[Message], Any]:
        if whole_payload_of(self.spec) is not None:
            from gen_worker.runtime.engine.whole_payloads import whole_decoder  # few jobs do

            return whole_decoder(self.spec, decoder(self.payload_type))
        return decoder(self.payload_type)

    def _needs_nothing(self) -> bool:
        return self.is_inference and not (
            self.needs_gpu
            or self.lane
            or self.input_files
            or self.models
            or self.spec.batching
            or self.repo_fields
        )

    def _read(self, message: Message) -> Any:
        payload = self._decode(message)
        if self._clamp is not None:
            payload = self._clamp(payload)
        if self.input_files is not None:
            self.input_files.sanitize(payload)
        return payload

    def bind(
        self, ctx: RequestContext, payload: Any, models: Mapping[str, Any], instance: Any
    ) -> Callable[[], Any]:
        """Return the author's function together with all it is called with."""
        if self._is_positional and instance is None:
            return partial(self.function, ctx, payload)
        head = (ctx,) if instance is None else (instance, ctx)
        if self._is_positional:
            return partial(self.function, *head, payload)
        named: dict[str, Any] = {}
        for parameter in self._call_parameters:
            match parameter:
                case PayloadParameter(name=name):
                    named[name] = payload
                case PayloadFieldParameter(name=name):
                    named[name] = getattr(payload, name)
                case ModelParameter(name=name):
                    named[name] = models[name]
                case ProvidedParameter(name=name):
                    named[name] = self.kind.provide(parameter, ctx)
        return partial(self.function, *head, **named)

    def check(self, produced: Any) -> None:
        """Check what the function returned or yielded.

        Raises:
            TypeError: It is not what the function declares.
        """
        expected = self._expected
        if expected is None or isinstance(produced, expected):
            return
        verb = "yield" if self.is_generator else "return"
        self._refuse(f"{verb} {getattr(expected, '__name__', expected)}", produced)

    def check_stream(self, produced: Any) -> None:
        """Check what a function whose output is a stream has returned.

        Raises:
            TypeError: Nothing comes of it, one by one.
        """
        if not hasattr(produced, "__aiter__" if self.is_async else "__iter__"):
            self._refuse("yield its items, or return an iterator of them", produced)

    def _refuse(self, duty: str, produced: Any) -> NoReturn:
        spec, kind = self.spec, type(produced).__name__
        remedy = "change the code or its annotation"
        if isinstance(produced, Coroutine):
            kind = f"the coroutine of {getattr(produced, '__qualname__', '?')!r}"
            remedy = "write `await` before its call" + ("" if self.is_async else ", in `async def`")
        place = f" ({spec.file}:{spec.line})" if spec.file else ""
        raise TypeError(f"{spec.qualname}{place} must {duty}, not {kind}: {remedy}")

    def check_item(self, item: Any) -> None:
        """Check a yielded item; text signals are always allowed."""
        if not isinstance(item, IncrementalTokenDelta):
            self.check(item)


def _context_maker(spec: FunctionSpec, kind: Kind) -> Callable[..., RequestContext]:
    """Return what makes the context that the function is annotated with."""
    for parameter in spec.parameters:
        if isinstance(parameter, ContextParameter) and parameter.wanted is not None:
            return partial(kind.context, wanted=parameter.wanted)
    return kind.context


def _checkable(expected: Any) -> Any:
    """Return a type that `isinstance` takes; None for no type, and for `list[…]` and the like."""
    try:
        isinstance(None, expected)
    except TypeError:
        return None
    return expected


def _plain_item_type(expected: Any) -> type | None:
    # Unless it is exactly this type, `isinstance` asks the metaclass of a struct: 0.3 us each time.
    is_plain = isinstance(expected, type) and not issubclass(expected, (Done, Error))
    return expected if is_plain else None


def _repo_fields(payload_type: Any) -> frozenset[str]:
    """Return the fields that name a repository: records, and the older name's text.

    A file names none, nor does a text that is called `source`: it may be what is translated.
    """
    names = _REPO_FIELDS.intersection(getattr(payload_type, "__struct_encode_fields__", ()))
    if not names:
        return frozenset()
    fields = msgspec.structs.fields(payload_type)
    return frozenset(
        one.encode_name
        for one in fields
        if one.encode_name in names
        and file_plan(one.type) is None
        and (one.encode_name == "destination_repo" or _may_be_record(one.type))
    )


def _may_be_record(annotation: Any) -> bool:
    from msgspec import inspect  # few payloads have such a field

    found = inspect.type_info(annotation)
    while isinstance(found, inspect.Metadata):
        found = found.type
    records = inspect.StructType | inspect.DictType | inspect.AnyType | inspect.TypedDictType
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    return any(isinstance(one, records) for one in options)


def _takes_payload_second(spec: FunctionSpec) -> bool:
    """Tell whether `function(ctx, payload)` is the whole call; it is cheaper than by name."""
    code = getattr(spec.function, "__code__", None)
    if code is None or len(spec.parameters) != 2 or code.co_kwonlyargcount:
        return False
    first, second = spec.parameters
    return isinstance(first, ContextParameter) and isinstance(second, PayloadParameter)
