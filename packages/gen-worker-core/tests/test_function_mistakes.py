"""Every mistake in a decorated function has its code, its exception and its place."""

import functools
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MethodType
from typing import Annotated, Any, Literal

import msgspec
import pytest

from gen_worker import (
    DefinitionError,
    RequestContext,
    Resources,
    inference_function,
    worker_function,
)
from gen_worker.endpoint.problems import DEFINITION_CODES, DefinitionTypeError


class Picky:
    """A binding that wants the payload field `quality`."""

    slot_name = ""
    dialect: Literal["binding", "injection"] = "binding"
    is_per_call = True

    def check(self, parameter: str, payload_type: type | None) -> None:
        if not hasattr(payload_type, "quality"):
            raise ValueError("dispatch field 'quality' is not a field of the payload")

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return {}

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


class Coded(Picky):
    def check(self, parameter: str, payload_type: type | None) -> None:
        error = TypeError("no such thing")
        error.code = "own_code"  # type: ignore[attr-defined]
        raise error


class Ask(msgspec.Struct):
    prompt: str
    steps: int = 20


class Reply(msgspec.Struct):
    caption: str


class Reserved(msgspec.Struct):
    overrides: dict[str, str] = msgspec.field(name="_models", default_factory=dict)


# Handlers, none of them right; `ctx` is left unannotated where it does not matter.
def no_parameters() -> Reply:
    return Reply("")


def only_payload(ask: Ask) -> Reply:
    return Reply("")


def keyword_context(*, ctx: RequestContext, ask: Ask) -> Reply:
    return Reply("")


def foreign_context(ctx: int, ask: Ask) -> Reply:
    return Reply("")


def listed_context(ctx: list[int], ask: Ask) -> Reply:
    return Reply("")


def no_payload(ctx: Any, ask: dict[str, str]) -> Reply:
    return Reply("")


def nothing_but_context(ctx: Any) -> Reply:
    return Reply("")


def two_payloads(ctx: Any, ask: Ask, more: Ask) -> Reply:
    return Reply("")


def takes_compute(ctx: Any, ask: Ask, compute: Any) -> Reply:
    return Reply("")


def unbound(ctx: Any, ask: Ask, engine: Any) -> Reply:
    return Reply("")


def variadic(ctx: Any, ask: Ask, *engines: Any, **more: Any) -> Reply:
    return Reply("")


def positional_only(ctx: Any, ask: Ask, /) -> Reply:
    return Reply("")


def reserved_field(ctx: Any, ask: Reserved) -> Reply:
    return Reply("")


def echo(ctx: Any, ask: Ask) -> Reply:
    return Reply("")


def modelled(ctx: Any, engine: Any, ask: Ask) -> Reply:
    return Reply("")


def annotated_model(ctx: Any, engine: Annotated[Any, Picky()], ask: Ask) -> Reply:
    return Reply("")


def returns_text(ctx: Any, ask: Ask) -> str:
    return ""


def returns_none(ctx: Any, ask: Ask) -> None: ...


def returns_list(ctx: Any, ask: Ask) -> list[Reply]:
    return []


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


class Incomparable(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = type.__hash__


class Odd(metaclass=Incomparable):
    pass


def returns_nameless(ctx: Any, ask: Ask) -> Nameless():  # type: ignore[valid-type]
    return Nameless()


def returns_incomparable(ctx: Any, ask: Ask) -> Odd:
    return Odd()


def yields_text(ctx: Any, ask: Ask) -> Iterator[str]:
    yield ""


def generator_as_struct(ctx: Any, ask: Ask) -> Reply:  # type: ignore[misc]
    yield Reply("")


async def coroutine_as_iterator(ctx: Any, ask: Ask) -> Iterator[Reply]:
    return iter(())


async def coroutine_as_async_iterator(ctx: Any, ask: Ask) -> AsyncIterator[Reply]:
    raise NotImplementedError


async def async_generator_as_iterator(ctx: Any, ask: Ask) -> Iterator[Reply]:  # type: ignore[misc]
    yield Reply("")


def generator_as_async_iterator(ctx: Any, ask: Ask) -> AsyncIterator[Reply]:  # type: ignore[misc]
    yield Reply("")


def list_to_one(ctx: Any, asks: list[Ask]) -> Reply:
    return Reply("")


async def async_list(ctx: Any, asks: list[Ask]) -> list[Reply]:
    return []


def list_to_list(ctx: Any, asks: list[Ask]) -> list[Reply]:
    return []


def unresolved(ctx: Any, ask: "Nowhere", other: "Ask") -> "Elsewhere": ...  # type: ignore[name-defined]  # noqa: F821


ROWS: list[tuple[Any, dict[str, Any], str, type[Exception]]] = [
    # context
    (no_parameters, {}, "context_missing", ValueError),
    (only_payload, {}, "context_missing", ValueError),
    (keyword_context, {}, "context_missing", ValueError),
    (foreign_context, {}, "context_annotation", ValueError),
    (listed_context, {}, "context_annotation", ValueError),
    # payload
    (no_payload, {}, "payload_missing", ValueError),
    (nothing_but_context, {}, "payload_missing", ValueError),
    (two_payloads, {}, "payload_ambiguous", ValueError),
    (reserved_field, {}, "reserved_field", ValueError),
    # other parameters
    (takes_compute, {}, "reserved_parameter", ValueError),
    (unbound, {}, "unbound_parameter", ValueError),
    (variadic, {}, "variadic_parameter", ValueError),
    (positional_only, {}, "positional_only_parameter", ValueError),
    (unresolved, {}, "unresolved_annotation", ValueError),
    # cost hints
    (
        echo,
        {"resources": Resources(vram_scales_with=["size[0]"])},
        "unknown_payload_field",
        ValueError,
    ),
    (
        echo,
        {"resources": Resources(runtime_scales_with=["count.x"])},
        "unknown_payload_field",
        ValueError,
    ),
    # models
    (modelled, {"models": {"engine": "acme/painter"}}, "invalid_models", TypeError),
    (modelled, {"models": {"engine": Picky}}, "invalid_models", TypeError),
    (modelled, {"models": [Picky()]}, "invalid_models", TypeError),
    (echo, {"models": {"engine": Picky()}}, "unknown_model_parameter", ValueError),
    (modelled, {"models": {"engine": Picky()}}, "binding_mismatch", ValueError),
    (modelled, {"models": {"engine": Coded()}}, "own_code", TypeError),
    (annotated_model, {}, "binding_mismatch", ValueError),
    (annotated_model, {"models": {"engine": Picky()}}, "bound_twice", ValueError),
    # results
    (returns_text, {}, "return_type", ValueError),
    (returns_none, {}, "return_type", ValueError),
    (returns_list, {}, "return_type", ValueError),
    (yields_text, {}, "return_type", ValueError),
    (generator_as_struct, {}, "return_shape", ValueError),
    (coroutine_as_iterator, {}, "return_shape", ValueError),
    (coroutine_as_async_iterator, {}, "return_shape", ValueError),
    (async_generator_as_iterator, {}, "return_shape", ValueError),
    (generator_as_async_iterator, {}, "return_shape", ValueError),
    (list_to_one, {}, "return_type", ValueError),
    (async_list, {}, "invalid_batching", ValueError),
    # options
    (echo, {"label": 3}, "invalid_option", TypeError),
    (echo, {"description": b"x"}, "invalid_option", TypeError),
    (echo, {"timeout_ms": 0}, "invalid_option", ValueError),
    (echo, {"timeout_ms": 1.5}, "invalid_option", TypeError),
    (echo, {"rate_limit_per_invoker": True}, "invalid_option", TypeError),
    (echo, {"name": "!!"}, "invalid_name", ValueError),
    (echo, {"name": 7}, "invalid_name", TypeError),
    (echo, {"resources": {"min_vram_gb": 3}}, "invalid_resources", TypeError),
    (echo, {"concurrency": "parallel"}, "invalid_concurrency", ValueError),
    (list_to_list, {"concurrency": "sequential"}, "invalid_concurrency", ValueError),
    # what is decorated
    (Ask, {}, "not_a_function", TypeError),
    ("echo", {}, "not_a_function", TypeError),
    (len, {}, "not_a_function", TypeError),
    (staticmethod(echo), {}, "not_a_function", TypeError),
    (Picky.choose, {}, "not_a_function", ValueError),
    (Picky().choose, {}, "not_a_function", TypeError),
    (MethodType(echo, Picky()), {}, "not_a_function", TypeError),
    # what refuses even to be shown
    (returns_nameless, {}, "return_type", ValueError),
    (returns_incomparable, {}, "return_type", ValueError),
]


@pytest.mark.parametrize(("function", "options", "code", "error"), ROWS)
def test_mistakes(
    function: Any, options: dict[str, Any], code: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        inference_function(**options)(function)
    assert isinstance(caught.value, DefinitionError)
    assert code in [problem.code for problem in caught.value.problems]
    assert f"[{code}]" in str(caught.value)
    if error is ValueError:
        assert not isinstance(caught.value, TypeError)


def test_every_code_is_documented() -> None:
    assert {row[2] for row in ROWS} - {"own_code"} <= set(DEFINITION_CODES)
    assert all(text.endswith(".") for text in DEFINITION_CODES.values())


def test_all_mistakes_come_in_one_report() -> None:
    resources = Resources(vram_scales_with=("size",), runtime_scales_with=("count",))
    options: dict[str, Any] = {"label": 3, "models": {"x": 1}, "resources": resources}
    with pytest.raises(DefinitionTypeError) as caught:
        inference_function(**options)(takes_compute)
    assert [problem.code for problem in caught.value.problems] == [
        "invalid_option",
        "invalid_models",
        "reserved_parameter",
        "unknown_model_parameter",
        "unknown_payload_field",
        "unknown_payload_field",
    ]
    lines = str(caught.value).splitlines()
    assert lines[0] == "takes_compute has 6 mistakes"
    assert len(lines) == 7
    assert caught.value.code == "invalid_option"


def test_a_report_names_values_and_remedy_and_knows_its_place() -> None:
    with pytest.raises(DefinitionError) as caught:
        inference_function(resources=Resources(vram_scales_with=("size",)))(echo)
    assert str(caught.value) == (
        "echo: vram_scales_with entry 'size' begins with no field of payload Ask: "
        "its fields are 'prompt', 'steps' [unknown_payload_field]"
    )
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (__file__, echo.__code__.co_firstlineno)


def test_each_unresolved_annotation_is_named() -> None:
    with pytest.raises(DefinitionError, match="not only under TYPE_CHECKING") as caught:
        inference_function(unresolved)
    messages = [problem.message for problem in caught.value.problems]
    assert ["'ask'" in messages[0], "the return annotation" in messages[1]] == [True, True]
    assert isinstance(caught.value.__cause__, NameError)


def test_reports_survive_pickling() -> None:
    with pytest.raises(DefinitionError) as caught:
        inference_function(no_payload)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problems) == (str(caught.value), caught.value.problems)


@pytest.mark.parametrize("again", [inference_function, worker_function])
def test_a_function_is_decorated_once(again: Callable[..., Any]) -> None:
    @inference_function
    def once(ctx: RequestContext, ask: Ask) -> Reply:
        return Reply("")

    with pytest.raises(DefinitionError, match="decorated_twice"):
        again(once)


def test_a_wrapper_that_copied_a_definition_is_refused() -> None:
    @inference_function
    def inner(ctx: RequestContext, ask: Ask) -> Reply:
        return Reply("")

    @functools.wraps(inner)
    def outer(*args: Any) -> Any: ...

    with pytest.raises(DefinitionError, match="decorated_twice"):
        inference_function(outer)


def test_methods_are_told_about_class_endpoints() -> None:
    with pytest.raises(DefinitionError, match="@invocable"):

        class Painter:
            @inference_function
            def paint(self, ctx: RequestContext, ask: Ask) -> Reply:
                return Reply("")
