"""From a method and a path to what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Needs", "Route", "Router"]

Needs = Literal["nothing", "read", "write", "read-repo", "write-repo", "admin"]
"""What a caller must be allowed; `…-repo` means the repository in the path."""


class Route(NamedTuple):
    """One row of the table."""

    methods: str
    """Separated by spaces."""
    pattern: str
    """Segments; `{name}` takes any one, `{name*}` the rest, `a|b` either."""
    needs: Needs
    handler: Callable[..., Any]
    is_stream: bool = False
    """The handler is a coroutine function and reads the body itself."""


class _Row(Protocol):
    @property
    def methods(self) -> str: ...
    @property
    def pattern(self) -> str: ...


R = TypeVar("R", bound=_Row)


class _Node(Generic[R]):
    """What may follow a part of a path."""

    __slots__ = ("any", "literals", "rest", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[R]] = {}
        self.any: _Node[R] | None = None
        self.rest: _Node[R] | None = None
        self.routes: dict[str, R] = {}


class Router(Generic[R]):
    """Finds routes segment by segment, of a `Route`'s kind or of another application's own."""

    def __init__(self, routes: Iterable[R]) -> None:
        self._root: _Node[R] = _Node()
        for route in routes:
            _add(self._root, route.pattern.strip("/").split("/"), route)

    def find(self, method: str, segments: Sequence[str]) -> tuple[R, dict[str, str]]:
        """Return the route and the values of its `{names}`.

        Raises:
            Refusal: 404, or 405 when the path exists.
        """
        node, values = self._root, []
        for index, segment in enumerate(segments):
            if segment in node.literals:
                node = node.literals[segment]
            elif node.any is not None and segment:
                node = node.any
                values.append(segment)
            elif node.rest is not None:
                node = node.rest
                values.append("/".join(segments[index:]))
                break
            else:
                raise Refusal(404, "route_not_found", "there is nothing at this path")
        route = node.routes.get(method)
        if route is None:
            if not node.routes:
                raise Refusal(404, "route_not_found", "there is nothing at this path")
            allow = ", ".join(sorted(node.routes))
            raise Refusal(405, "method_not_allowed", f"here are {allow}", allow=allow)
        return route, dict(zip(_names(route.pattern), values, strict=True))


def _add(node: _Node[R], segments: Sequence[str], route: R) -> None:
    if not segments:
        for method in route.methods.split():
            node.routes[method] = route
        return
    first, *rest = segments
    if first.endswith("*}"):
        node.rest = node.rest or _Node()
        _add(node.rest, rest, route)
    elif first.startswith("{"):
        node.any = node.any or _Node()
        _add(node.any, rest, route)
    else:
        for key in first.split("|"):
            _add(node.literals.setdefault(key, _Node()), rest, route)


def _names(pattern: str) -> list[str]:
    return [part[1:-1].rstrip("*") for part in pattern.split("/") if part.startswith("{")]
