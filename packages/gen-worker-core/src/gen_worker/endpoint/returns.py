"""What a function gives back, from its return annotation and the way it is written."""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
)
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec

from gen_worker.endpoint.annotations import (
    bare_and_binding,
    is_struct,
    list_item,
    members_of,
    show,
)
from gen_worker.spec import OutputMode, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.endpoint.problems import Findings
    from gen_worker.spec import EndpointKind

__all__ = ["Output", "read_output"]

_ITERATORS = (Iterator, Iterable, Generator)
_ASYNC_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_SIGNALS = ("Done", "Error")


class Output(msgspec.Struct, frozen=True):
    """The declared output; both types are None when nothing is declared."""

    shape: Shape
    mode: OutputMode = "single"
    result_type: Any = None
    delta_type: Any = None


def read_output(
    shape: Shape,
    hints: Mapping[str, Any],
    findings: Findings,
    *,
    kind: EndpointKind = "inference",
    is_batched: bool = False,
) -> Output:
    """Read the return annotation.

    A plain function may be annotated as an iterator: it is then streamed like a generator.

    Args:
        shape: What calling the function gives, by its code.
        hints: Resolved annotations; a missing `return` is accepted here, discovery decides.
        findings: Receives the mistakes.
        kind: Endpoint kind; every kind but inference produces flavors.
        is_batched: Whether the function answers many calls at once, `list[Out]`.
    """
    is_generator = shape in ("generator", "async_generator")
    if "return" not in hints:
        return Output(shape, "incremental" if is_generator else "single")
    annotation = bare_and_binding(hints["return"])[0]
    origin = get_origin(annotation) or annotation
    is_async = any(origin is cls for cls in _ASYNC_ITERATORS)
    if is_async or any(origin is cls for cls in _ITERATORS):
        return _streamed(shape, annotation, is_async, kind, findings)
    if is_generator:
        _report_shape(shape, annotation, findings)
    elif kind != "inference":
        return _produced(shape, annotation, kind, findings)
    elif is_struct(item := list_item(annotation)) and is_batched:
        return Output(shape, "single", item)
    elif is_struct(annotation):
        return Output(shape, "single", annotation)
    else:
        expected = "a msgspec.Struct subclass, or an iterator of one when it streams"
        _report_type(annotation, expected, findings)
    return Output(shape, "incremental" if is_generator else "single")


def _streamed(
    shape: Shape, annotation: Any, is_async: bool, kind: EndpointKind, findings: Findings
) -> Output:
    written_for: tuple[Shape, ...] = (
        ("async_generator", "sync") if is_async else ("generator", "sync")
    )
    if shape not in written_for:
        _report_shape(shape, annotation, findings)
    streamed: Shape = "async_generator" if is_async else "generator"
    item = _item_of(annotation)
    expected = "a msgspec.Struct subclass" if kind == "inference" else "ProducedFlavor"
    if item is not None and not _may_be_item(item, kind):
        _report_type(annotation, f"an iterator of {expected}", findings)
    return Output(streamed, "incremental", None, item)


def _item_of(annotation: Any) -> Any:
    """Return what is yielded; stream signals beside it say how a stream ends, not what it is."""
    arguments = get_args(annotation)
    if not arguments:
        return None
    streaming = sys.modules.get("gen_worker.streaming")
    signals = [vars(streaming)[name] for name in _SIGNALS] if streaming else []
    members = [m for m in members_of(bare_and_binding(arguments[0])[0]) if m not in signals]
    return members[0] if len(members) == 1 else arguments[0]


def _may_be_item(item: Any, kind: EndpointKind) -> bool:
    return is_struct(item) and (kind == "inference" or _is_flavor(item))


def _is_flavor(annotation: Any) -> bool:
    from gen_worker.types import ProducedFlavor

    return isinstance(annotation, type) and issubclass(annotation, ProducedFlavor)


def _produced(shape: Shape, annotation: Any, kind: EndpointKind, findings: Findings) -> Output:
    if annotation is type(None):
        return Output(shape)
    if _is_flavor(list_item(annotation)):
        return Output(shape, "single", annotation)
    expected = "list[ProducedFlavor], Iterator[ProducedFlavor] or None"
    _report_type(annotation, f"{expected} in a {kind} function", findings)
    return Output(shape)


def _report_type(annotation: Any, expected: str, findings: Findings) -> None:
    findings.add("return_type", f"cannot return {show(annotation)}", f"return {expected}")


def _report_shape(shape: Shape, annotation: Any, findings: Findings) -> None:
    hints = {
        "async": "yield the items instead of returning them, or return a single struct",
        "generator": "a function that yields returns Iterator[...]",
        "async_generator": "an async function that yields returns AsyncIterator[...]",
    }
    written = {"async": "a coroutine", "generator": "a generator"}.get(shape, "an async generator")
    findings.add(
        "return_shape", f"is {written} but annotated {show(annotation)}", hints.get(shape, "")
    )
