"""One row of the table of routes: what it answers, who may ask, and how it is described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.models.hub.local.asgi import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.http.credentials import Principal, ScopeSet

__all__ = ["HttpCall", "HttpRoute", "Operation"]

Operation = dict[str, Any]
"""An operation of OpenAPI 3.1; `openapi.operation` makes most of them."""


class HttpCall(Call):
    """One request, and who sent it."""

    caller: Principal


class HttpRoute(NamedTuple):
    """One row."""

    methods: str
    """Separated by spaces."""
    pattern: str
    """Segments; `{name}` takes any one, `{name*}` the rest."""
    needs: ScopeSet
    handler: Callable[..., Any]
    """Given an `HttpCall`; returns an `Answer` or a `FileAnswer`."""
    is_stream: bool = False
    """The handler is a coroutine function and reads the body itself. Others run in a thread."""
    operation: Operation | None = None
    """How openapi.json describes it; what it does not describe is left out."""
    schemas: Mapping[str, Any] = {}
    """What the operation refers to, by name among the components."""
