"""What a function looks like from outside, read from its code object.

`inspect` would say the same, but importing it costs more than everything else a decorator does;
only callables without a code object of their own fall back to it.
"""

from __future__ import annotations

import sys
import typing
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from msgspec import NODEFAULT, Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.endpoint.problems import Findings
    from gen_worker.spec import Shape

__all__ = ["Argument", "arguments_of", "hints_of", "locals_of", "place_of", "plain", "shape_of"]

_VAR_POSITIONAL, _VAR_KEYWORD = 0x04, 0x08
# CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR of the inspect module.
_SHAPES: tuple[tuple[int, Shape], ...] = (
    (0x20, "generator"),
    (0x80, "async"),
    (0x200, "async_generator"),
)


class Argument(Struct, frozen=True):
    """One parameter of a function."""

    name: str
    how: Literal["positional_only", "positional", "variadic", "keyword", "keywords"]
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is NODEFAULT and self.how not in ("variadic", "keywords")

    @property
    def takes_position(self) -> bool:
        return self.how in ("positional_only", "positional")


def plain(function: Any) -> Any:
    """Return the function an author wrote, below `functools.wraps` and `functools.partial`."""
    function = _unwrapped(function, below_partial=True)
    if not hasattr(function, "__code__") and not isinstance(function, type):
        return getattr(type(function), "__call__", function)  # noqa: B004  # fetched, not tested
    return function


def _unwrapped(function: Any, *, below_partial: bool = False) -> Any:
    for _ in range(100):  # a cycle of __wrapped__ is somebody's mistake, not a reason to hang
        if below_partial and isinstance(function, partial):
            function = function.func
            continue
        inner = getattr(function, "__wrapped__", None)
        if not callable(inner):
            break
        function = inner
    return function


def arguments_of(function: Callable[..., Any]) -> tuple[Argument, ...]:
    """Return the parameters in order, wrappers by `functools.wraps` looked through.

    Empty for a callable that keeps them to itself.
    """
    written = _unwrapped(function)
    if type(written) is not FunctionType:
        return _inspected(written)
    code = written.__code__
    count, kw_count = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    defaults = written.__defaults__ or ()
    first_default = count - len(defaults)
    arguments = [
        Argument(
            name,
            "positional_only" if index < code.co_posonlyargcount else "positional",
            defaults[index - first_default] if index >= first_default else NODEFAULT,
        )
        for index, name in enumerate(names[:count])
    ]
    has_variadic = bool(code.co_flags & _VAR_POSITIONAL)
    if has_variadic:
        arguments.append(Argument(names[count + kw_count], "variadic", NODEFAULT))
    kw_defaults = written.__kwdefaults__ or {}
    for name in names[count : count + kw_count]:
        arguments.append(Argument(name, "keyword", kw_defaults.get(name, NODEFAULT)))
    if code.co_flags & _VAR_KEYWORD:
        arguments.append(Argument(names[count + kw_count + has_variadic], "keywords", NODEFAULT))
    return tuple(arguments)


def _inspected(function: Callable[..., Any]) -> tuple[Argument, ...]:
    import inspect

    kinds = inspect.Parameter
    how: dict[Any, Any] = {
        kinds.POSITIONAL_ONLY: "positional_only",
        kinds.POSITIONAL_OR_KEYWORD: "positional",
        kinds.VAR_POSITIONAL: "variadic",
        kinds.KEYWORD_ONLY: "keyword",
        kinds.VAR_KEYWORD: "keywords",
    }
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # compiled code need not tell
        return ()
    return tuple(
        Argument(p.name, how[p.kind], NODEFAULT if p.default is p.empty else p.default)
        for p in parameters
    )


def shape_of(function: Callable[..., Any]) -> Shape:
    """Tell what calling the function gives.

    A wrapper that is a plain function itself is taken to hand through what it wraps.
    """
    for candidate in (function, plain(function)):
        flags = getattr(getattr(candidate, "__code__", None), "co_flags", 0)
        for flag, shape in _SHAPES:
            if flags & flag:
                return shape
    return "sync"


def place_of(function: Callable[..., Any]) -> tuple[str, int]:
    """Return file and first line; empty and 0 when there is no code to ask."""
    code = getattr(plain(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)


def locals_of(depth: int) -> Mapping[str, Any]:
    """Return the local names where a decorator was applied, `depth` calls above the caller.

    A module has none: what is decorated there may come from elsewhere and knows its own globals.
    """
    frame = sys._getframe(depth + 1)
    return {} if frame.f_locals is frame.f_globals else frame.f_locals


def hints_of(
    function: Callable[..., Any], scope: Mapping[str, Any], findings: Findings
) -> dict[str, Any]:
    """Return the resolved annotations, `Annotated` metadata kept; report what has no meaning.

    Args:
        function: What to look at.
        scope: Local names for string annotations, for functions defined inside functions.
        findings: Receives one mistake per annotation that cannot be resolved.
    """
    written = plain(function)
    names: Any = dict(scope) or None
    # Given, because it would be looked for through a cycle of __wrapped__ without end.
    namespace = getattr(written, "__globals__", None)
    try:
        return typing.get_type_hints(written, namespace, names, include_extras=True)
    except Exception:  # evaluates an author's text: it may raise anything
        return _hints_one_by_one(written, names, findings)


def _hints_one_by_one(written: Any, names: Any, findings: Findings) -> dict[str, Any]:
    namespace = getattr(written, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(written, "__annotations__", {}).items():
        single = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(single, namespace, names, include_extras=True)
        except Exception as error:  # as above
            where = "the return annotation" if name == "return" else f"the annotation of {name!r}"
            hint = (
                "define or import it above, not only under TYPE_CHECKING"
                if type(error) is NameError
                else ""
            )
            findings.add(
                "unresolved_annotation",
                f"{where} {annotation!r} cannot be resolved ({type(error).__name__}: {error})",
                hint,
                cause=error,
            )
    return hints
