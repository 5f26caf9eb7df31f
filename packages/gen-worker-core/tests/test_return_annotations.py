"""Every documented spelling of a return annotation is read, as an object and as text."""

from __future__ import annotations

import collections.abc
import typing
from typing import Annotated, Any

import msgspec
import pytest

from gen_worker import inference_function
from gen_worker.endpoint.problems import DefinitionError
from gen_worker.spec import FunctionSpec, specs_of
from gen_worker.streaming import Done, Error, IncrementalTokenDelta, TokenStreamSignal


class In(msgspec.Struct):
    text: str


class Out(msgspec.Struct):
    text: str


class Other(msgspec.Struct):
    text: str


SYNC = [
    collections.abc.Iterator[Out],
    collections.abc.Iterable[Out],
    collections.abc.Generator[Out, None, None],
    typing.Iterator[Out],
    typing.Iterable[Out],
    typing.Generator[Out, None, None],
    typing.Iterator[Annotated[Out, "note"]],
    Annotated[typing.Iterator[Out], "note"],
    "typing.Iterator[Out]",
    "collections.abc.Generator[Out, None, None]",
]
ASYNC = [
    collections.abc.AsyncIterator[Out],
    collections.abc.AsyncIterable[Out],
    collections.abc.AsyncGenerator[Out, None],
    typing.AsyncIterator[Out],
    typing.AsyncIterable[Out],
    typing.AsyncGenerator[Out, None],
    "collections.abc.AsyncIterator[Out]",
]


def generator(annotation: Any) -> FunctionSpec:
    def stream(ctx: Any, payload: In) -> Any:
        yield Out(payload.text)

    return _defined(stream, annotation)


def async_generator(annotation: Any) -> FunctionSpec:
    async def stream(ctx: Any, payload: In) -> Any:
        yield Out(payload.text)

    return _defined(stream, annotation)


def plain(annotation: Any) -> FunctionSpec:
    def answer(ctx: Any, payload: In) -> Any:
        return Out(payload.text)

    return _defined(answer, annotation)


def _defined(function: Any, annotation: Any) -> FunctionSpec:
    function.__annotations__["return"] = annotation
    (spec,) = specs_of(inference_function(function))
    return spec


@pytest.mark.parametrize("annotation", SYNC, ids=str)
@pytest.mark.parametrize("define", [generator, plain])
def test_iterators_stream(define: Any, annotation: Any) -> None:
    spec = define(annotation)
    assert (spec.shape, spec.delta_type, spec.result_type) == ("generator", Out, None)


@pytest.mark.parametrize("annotation", ASYNC, ids=str)
@pytest.mark.parametrize("define", [async_generator, plain])
def test_async_iterators_stream(define: Any, annotation: Any) -> None:
    spec = define(annotation)
    assert (spec.shape, spec.delta_type, spec.result_type) == ("async_generator", Out, None)


@pytest.mark.parametrize("annotation", [Out, Annotated[Out, "note"], "Out"], ids=str)
def test_a_struct_is_a_single_output(annotation: Any) -> None:
    assert plain(annotation).result_type is Out


@pytest.mark.parametrize(
    "annotation",
    [
        typing.Iterator[TokenStreamSignal],
        typing.Iterator[IncrementalTokenDelta | Done],
        typing.Iterator[typing.Union[Error, IncrementalTokenDelta, Done]],  # noqa: UP007
    ],
    ids=str,
)
def test_stream_signals_are_not_what_is_streamed(annotation: Any) -> None:
    assert generator(annotation).delta_type is IncrementalTokenDelta


@pytest.mark.parametrize("annotation", [typing.Iterator, collections.abc.Iterator], ids=str)
def test_an_iterator_of_anything_declares_no_item(annotation: Any) -> None:
    assert (generator(annotation).delta_type, generator(annotation).is_streamed) == (None, True)


@pytest.mark.parametrize(
    "annotation",
    [
        typing.Iterator[str],
        typing.Iterator[Out | Other],
        typing.Iterator[Out | None],
        typing.Iterator[list[Out]],
        Out | Other,
        Out | None,
        dict[str, str],
        tuple[Out, Out],
        typing.Awaitable[Out],
    ],
    ids=str,
)
def test_other_annotations_are_refused(annotation: Any) -> None:
    with pytest.raises(DefinitionError) as caught:
        plain(annotation)
    assert caught.value.code == "return_type"
