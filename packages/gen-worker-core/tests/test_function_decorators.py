"""What `inference_function` and `worker_function` make of a function."""

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
import pytest

from gen_worker import (
    ConversionContext,
    RequestContext,
    ResourceRequirements,
    Resources,
    inference_function,
    worker_function,
)
from gen_worker.endpoint.problems import DefinitionError
from gen_worker.spec import (
    Batching,
    ContextParameter,
    FunctionSpec,
    ModelParameter,
    PayloadParameter,
    specs_of,
)


class FakeBinding:
    """A binding that accepts everything."""

    slot_name = ""
    dialect: Literal["binding", "injection"] = "binding"
    is_per_call = False

    def check(self, parameter: str, payload_type: type | None) -> None: ...
    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return {}

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


class Ask(msgspec.Struct):
    prompt: str
    steps: int = 20


class Reply(msgspec.Struct):
    caption: str


BINDING = FakeBinding()


def spec_of(function: Callable[..., Any]) -> FunctionSpec:
    (spec,) = specs_of(function)
    return spec


def test_the_function_itself_is_returned_and_stays_callable() -> None:
    def paint(ctx: RequestContext, engine: Any, ask: Ask) -> Reply:
        return Reply(engine(ask.prompt))

    decorated = inference_function(models={"engine": BINDING})(paint)
    assert decorated is paint
    assert decorated(RequestContext("t"), str.upper, Ask("hi")) == Reply("HI")
    assert list(inspect.signature(decorated).parameters) == ["ctx", "engine", "ask"]


@pytest.mark.parametrize(
    "decorate",
    [inference_function, inference_function(), worker_function, worker_function()],
    ids=["bare", "called", "worker bare", "worker called"],
)
def test_decorators_work_bare_and_called(decorate: Callable[..., Any]) -> None:
    def echo(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply("")

    spec = spec_of(decorate(echo))
    assert (spec.name, spec.function, spec.shape) == ("echo", echo, "sync")
    assert (spec.payload_type, spec.result_type, spec.output_mode) == (Ask, Reply, "single")
    assert spec.resources == Resources()


def test_options_are_trimmed_and_kept() -> None:
    @inference_function(
        name=" My Echo ",
        label=" Echo ",
        description="  ",
        timeout_ms=500,
        rate_limit_per_invoker=2,
        concurrency="sequential",
        resources=Resources(min_vram_gb=4, vram_scales_with=["steps", "prompt[0].x"]),
    )
    def echo(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply("")

    spec = spec_of(echo)
    assert (spec.name, spec.registered_name, spec.python_name) == ("my-echo", "My Echo", "echo")
    assert (spec.label, spec.description) == ("Echo", None)
    assert (spec.timeout_ms, spec.rate_limit_per_invoker) == (500, 2)
    assert spec.concurrency == "sequential"
    assert spec.resources.min_vram_gb == 4
    assert spec.file == __file__
    assert spec.line == echo.__code__.co_firstlineno


def test_context_and_models_need_no_annotation_and_order_is_free() -> None:
    @inference_function(models={"engine": BINDING, "voice": BINDING})
    def paint(anything, voice, ask: Ask, *, engine: dict[str, int]) -> Reply:  # type: ignore[no-untyped-def]
        return Reply("")

    assert spec_of(paint).parameters == (
        ContextParameter("anything"),
        ModelParameter("voice", BINDING, Any),
        PayloadParameter("ask", Ask),
        ModelParameter("engine", BINDING, dict[str, int]),
    )


class OwnContext(typing.Protocol):
    request_id: str


@pytest.mark.parametrize(
    "annotation",
    [RequestContext, ConversionContext, RequestContext | None, OwnContext, Any, object],
)
def test_every_context_annotation_is_accepted(annotation: Any) -> None:
    def echo(ctx: Any, payload: Ask) -> Reply:
        return Reply("")

    echo.__annotations__["ctx"] = annotation
    assert spec_of(inference_function(echo)).parameters[0] == ContextParameter("ctx")


@pytest.mark.parametrize("decorate", [inference_function, worker_function])
def test_models_may_be_annotated(decorate: Callable[..., Any]) -> None:
    class Speech: ...

    def transcribe(
        ctx: RequestContext, asr: Annotated[Speech, "note", BINDING], payload: Ask
    ) -> Reply:
        return Reply("")

    spec = spec_of(decorate(transcribe))
    assert spec.models == {"asr": ModelParameter("asr", BINDING, Speech)}


def test_a_struct_that_is_bound_as_a_model_is_no_payload() -> None:
    @inference_function(models={"settings": BINDING})
    def paint(ctx: RequestContext, settings: Reply, ask: Ask) -> Reply:
        return Reply("")

    assert spec_of(paint).payload_type is Ask


def test_names_defined_in_an_enclosing_function_resolve() -> None:
    class Local(msgspec.Struct):
        text: str

    @inference_function
    def echo(ctx: RequestContext, payload: "Local") -> "Local":
        return payload

    assert spec_of(echo).payload_type is Local


def test_worker_function_takes_its_resources_by_position() -> None:
    needs = ResourceRequirements(min_vram_gb=8)

    @worker_function(needs)
    def echo(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply("")

    assert spec_of(echo).resources is needs
    assert spec_of(echo).decorator == "worker_function"


def plain(ctx, ask: Ask) -> Reply:  # type: ignore[no-untyped-def]
    return Reply("")


def undeclared(ctx, ask: Ask): ...  # type: ignore[no-untyped-def]
def undeclared_stream(ctx, ask: Ask):  # type: ignore[no-untyped-def]
    yield Reply("")


def iterating(ctx, ask: Ask) -> Iterator[Reply]:  # type: ignore[no-untyped-def]
    yield Reply("")


def handing_on(ctx, ask: Ask) -> typing.Iterable[Reply]:  # type: ignore[no-untyped-def]
    return [Reply("")]


def handing_on_async(ctx, ask: Ask) -> typing.AsyncIterable[Reply]:  # type: ignore[no-untyped-def]
    return async_iterating(ctx, ask)


async def coroutine(ctx, ask: Ask) -> Reply:  # type: ignore[no-untyped-def]
    return Reply("")


async def async_iterating(ctx, ask: Ask) -> AsyncIterator[Reply]:  # type: ignore[no-untyped-def]
    yield Reply("")


@pytest.mark.parametrize(
    ("function", "shape", "result", "delta"),
    [
        (plain, "sync", Reply, None),
        (undeclared, "sync", None, None),
        (coroutine, "async", Reply, None),
        (iterating, "generator", None, Reply),
        (undeclared_stream, "generator", None, None),
        (handing_on, "generator", None, Reply),
        (async_iterating, "async_generator", None, Reply),
        (handing_on_async, "async_generator", None, Reply),
    ],
)
def test_shapes_and_outputs(
    function: Callable[..., Any], shape: str, result: Any, delta: Any
) -> None:
    spec = spec_of(inference_function(function))
    assert (spec.shape, spec.result_type, spec.delta_type) == (shape, result, delta)
    assert spec.is_streamed == (shape in ("generator", "async_generator"))


def test_a_function_over_lists_is_batched_as_its_resources_say() -> None:
    @inference_function(resources=ResourceRequirements(batch_size_max=8, max_wait_ms=20))
    def embed(ctx: list[RequestContext], asks: list[Ask]) -> list[Reply]:
        return [Reply("") for _ in asks]

    spec = spec_of(embed)
    assert (spec.concurrency, spec.payload_type, spec.result_type) == ("batched", Ask, Reply)
    assert spec.batching == Batching(window_ms=20.0, max_batch=8)


def test_a_wrapped_function_is_read_below_its_wrapper() -> None:
    def echo(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply("")

    @functools.wraps(echo)
    def logged(*args: Any, **kwargs: Any) -> Any:
        return echo(*args, **kwargs)

    spec = spec_of(inference_function(logged))
    assert (spec.function, spec.payload_type) == (logged, Ask)


def test_a_broken_function_stays_undecorated() -> None:
    def broken(ctx: RequestContext) -> Reply:
        return Reply("")

    with pytest.raises(DefinitionError):
        inference_function(broken)
    assert specs_of(broken) == ()


def test_a_wrapper_around_a_decorated_function_is_what_is_called() -> None:
    @inference_function
    def echo(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply(payload.prompt)

    @functools.wraps(echo)
    def louder(ctx: RequestContext, payload: Ask) -> Reply:
        return Reply(echo(ctx, payload).caption.upper())

    assert spec_of(louder).function is louder
    assert spec_of(echo).function is echo
