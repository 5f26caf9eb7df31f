"""Signatures read from code objects say the same as `inspect`."""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from gen_worker.endpoint.callables import Argument, arguments_of, hints_of, place_of, shape_of
from gen_worker.endpoint.problems import Findings

HOW = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "variadic",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "keywords",
}


def inspected(function: Callable[..., Any]) -> list[tuple[str, str, Any]]:
    return [
        (p.name, HOW[p.kind], msgspec.NODEFAULT if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
    ]


@st.composite
def functions(draw: st.DrawFn) -> Callable[..., Any]:
    """Build a function with a random parameter list, and locals behind it."""
    counts = [draw(st.integers(0, 3)) for _ in range(3)]
    positional = [f"a{i}" for i in range(counts[0] + counts[1])]
    first_default = draw(st.integers(0, len(positional)))
    written = [n if i < first_default else f"{n}={i}" for i, n in enumerate(positional)]
    if counts[0]:
        written.insert(counts[0], "/")
    has_star = draw(st.booleans())
    if has_star or counts[2]:
        written.append("*rest" if has_star else "*")
    written += [f"k{i}={i}" if draw(st.booleans()) else f"k{i}" for i in range(counts[2])]
    if draw(st.booleans()):
        written.append("**more")
    namespace: dict[str, Any] = {}
    exec(f"def made({', '.join(written)}):\n    local = 1\n    return local", namespace)
    made: Callable[..., Any] = namespace["made"]
    return made


@given(functions())
def test_parameters_are_those_inspect_sees(function: Callable[..., Any]) -> None:
    assert [astuple(argument) for argument in arguments_of(function)] == inspected(function)


def test_wrappers_are_looked_through() -> None:
    def written(ctx: int, payload: str = "x") -> None: ...

    @functools.wraps(written)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert arguments_of(wrapper) == (
        Argument("ctx", "positional", msgspec.NODEFAULT),
        Argument("payload", "positional", "x"),
    )
    assert place_of(wrapper) == place_of(written)


def test_callables_without_code_are_inspected() -> None:
    def written(ctx: int, scale: int, payload: str) -> None: ...

    partial = functools.partial(written, scale=3)
    assert [astuple(argument) for argument in arguments_of(partial)] == inspected(partial)


def plain() -> None: ...


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def handed_through(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


class Callable_:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (plain, "sync"),
        (coroutine, "async"),
        (generator, "generator"),
        (async_generator, "async_generator"),
        (lambda: None, "sync"),
        (handed_through(plain), "sync"),
        (handed_through(coroutine), "async"),
        (handed_through(async_generator), "async_generator"),
        (functools.partial(generator), "generator"),
        (Callable_(), "async"),
    ],
)
def test_shape_is_what_calling_gives(function: Callable[..., Any], shape: str) -> None:
    assert shape_of(function) == shape


def test_a_cycle_of_wrappers_ends() -> None:
    def wrapper(ctx: Any) -> None: ...

    wrapper.__wrapped__ = wrapper  # type: ignore[attr-defined]
    findings = Findings("wrapper")
    assert shape_of(wrapper) == "sync"
    assert [argument.name for argument in arguments_of(wrapper)] == ["ctx"]
    assert set(hints_of(wrapper, {}, findings)) == {"ctx", "return"}
    assert len(findings) == 0


def test_only_a_partial_function_has_one_below_it() -> None:
    class Handler:
        func = print

        def __call__(self, ctx: Any) -> None: ...

    assert place_of(Handler()) == (__file__, Handler.__call__.__code__.co_firstlineno)


def test_a_callable_that_keeps_its_parameters_to_itself_has_none() -> None:
    arguments = arguments_of(type("Fast", (), {"__call__": dict.__call__})())
    # Since 3.13 such a callable says that it takes anything; before, it said nothing.
    assert {argument.how for argument in arguments} <= {"variadic", "keywords"}
