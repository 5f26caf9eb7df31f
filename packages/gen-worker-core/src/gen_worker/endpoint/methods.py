"""Marks on the methods of a class endpoint; the class decorator reads and checks them."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import msgspec

from gen_worker.endpoint.options import FunctionOptions
from gen_worker.endpoint.problems import Findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "METHOD_ATTRIBUTE",
    "BatchedMethodDecorator",
    "MarkedMethod",
    "MethodDecorator",
    "StageOptions",
    "invocable",
    "marked_methods",
]

F = TypeVar("F", bound=Callable[..., Any])

METHOD_ATTRIBUTE = "__gen_worker_method__"
"""Where a mark stays on a method: `FunctionOptions` or `StageOptions`."""


class StageOptions(msgspec.Struct, frozen=True):
    """Options of a stage; not checked yet."""

    name: Any = None
    gpu_class: Any = "large"


class MarkedMethod(msgspec.Struct, frozen=True):
    """One marked method of a class."""

    python_name: str
    function: Callable[..., Any]
    mark: FunctionOptions | StageOptions


def _mark(method: Any, mark: FunctionOptions | StageOptions, decorator: str) -> Any:
    is_other = isinstance(method, (type, MethodType)) or not callable(method)
    if is_other or not hasattr(method, "__dict__"):
        findings = Findings(f"@{decorator}")
        findings.add(
            "not_a_function",
            f"must be put on a method, not on {method!r}",
            "pass options by keyword",
            wrong_type=True,
        )
        findings.raise_if_any()
    setattr(method, METHOD_ATTRIBUTE, mark)
    return method


class StageDecorator:
    """Marks a method as a stage of its class, run where `gpu_class` says."""

    @overload
    def __call__(self, method: F) -> F: ...
    @overload
    def __call__(
        self,
        method: None = None,
        *,
        name: str | None = None,
        gpu_class: Literal["small", "large"] = "large",
    ) -> Callable[[F], F]: ...
    def __call__(
        self, method: Any = None, *, name: str | None = None, gpu_class: str = "large"
    ) -> Any:
        """Mark a stage.

        Args:
            method: The method, when used bare.
            name: Name of the stage instead of the method's own.
            gpu_class: Size of GPU it wants, `small` or `large`.
        """
        mark = StageOptions(name, gpu_class)
        if method is not None:
            return _mark(method, mark, "stage")
        return lambda decorated: _mark(decorated, mark, "stage")


class MethodDecorator:
    """Marks a method of a class endpoint as a function callers can invoke."""

    stage = StageDecorator()

    @overload
    def __call__(self, method: F) -> F: ...
    @overload
    def __call__(
        self,
        method: None = None,
        *,
        name: str | None = None,
        timeout_ms: int | None = None,
        allowed_shapes: Sequence[Sequence[int]] | None = None,
        rate_limit_per_invoker: int | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> Callable[[F], F]: ...
    def __call__(
        self,
        method: Any = None,
        *,
        name: str | None = None,
        timeout_ms: int | None = None,
        allowed_shapes: Sequence[Sequence[int]] | None = None,
        rate_limit_per_invoker: int | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> Any:
        """Mark `def say(self, ctx, payload: In) -> Out`; the class decides the endpoint kind.

        Args:
            method: The method, when used bare.
            name: Name to register instead of the method's own.
            timeout_ms: Milliseconds one call may take.
            allowed_shapes: Shapes the function is prepared for, such as `[(1024, 1024)]`.
            rate_limit_per_invoker: Calls one invoker may have running at once.
            label: Short title for people.
            description: What it does, for people.
        """
        mark = FunctionOptions(
            name, label, description, timeout_ms, rate_limit_per_invoker, allowed_shapes
        )
        if method is not None:
            return _mark(method, mark, "invocable")
        return lambda decorated: _mark(decorated, mark, "invocable")


class BatchedMethodDecorator:
    """Marks an async generator whose calls share one engine."""

    @overload
    def __call__(self, method: F) -> F: ...
    @overload
    def __call__(
        self,
        method: None = None,
        *,
        name: str | None = None,
        timeout_ms: int | None = None,
        rate_limit_per_invoker: int | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> Callable[[F], F]: ...
    def __call__(
        self,
        method: Any = None,
        *,
        name: str | None = None,
        timeout_ms: int | None = None,
        rate_limit_per_invoker: int | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> Any:
        """Mark `async def chat(self, ctx, payload: In) -> AsyncIterator[Delta]`.

        The options are those of `invocable`.
        """
        mark = FunctionOptions(
            name, label, description, timeout_ms, rate_limit_per_invoker, must_stream=True
        )
        if method is not None:
            return _mark(method, mark, "batched_inference.function")
        return lambda decorated: _mark(decorated, mark, "batched_inference.function")


invocable = MethodDecorator()


def marked_methods(cls: type) -> Iterator[MarkedMethod]:
    """Yield the marked methods of a class and its bases, in the order they were first written.

    A method that overrides a marked one without a mark of its own is not a function.
    """
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        members |= vars(base)
    for name, member in members.items():
        # staticmethod and classmethod hide the mark of what they wrap.
        marked = getattr(member, "__func__", member)
        mark = getattr(marked, "__dict__", {}).get(METHOD_ATTRIBUTE)
        if mark is not None:
            yield MarkedMethod(name, member, mark)
