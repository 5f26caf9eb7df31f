"""The methods of a class endpoint that only the worker calls: `setup`, `warmup`, `shutdown`."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.endpoint.annotations import bare_and_binding, is_binding
from gen_worker.endpoint.callables import arguments_of, hints_of, place_of, shape_of
from gen_worker.endpoint.signature import check_binding
from gen_worker.spec import ModelParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.endpoint.callables import Argument
    from gen_worker.endpoint.problems import Findings

__all__ = ["Hooks", "read_hooks"]


class Hooks(msgspec.Struct, frozen=True):
    """Which hooks a class has, and the models its `setup` receives."""

    setup_parameters: tuple[ModelParameter, ...] = ()
    has_setup: bool = False
    has_warmup: bool = False
    has_shutdown: bool = False
    is_setup_async: bool = False


def read_hooks(
    cls: type,
    models: Mapping[str, Any],
    scope: Mapping[str, Any],
    findings: Findings,
    *,
    is_serial: bool,
    has_engine: bool,
) -> Hooks:
    """Check the hooks of a class.

    Args:
        cls: The class.
        models: Its bindings by name; values that are none are reported elsewhere.
        scope: Local names for string annotations.
        findings: Receives the mistakes.
        is_serial: Whether the class is no batched worker; its `shutdown` is then synchronous.
        has_engine: Whether `setup` may take an `engine` the SDK makes.
    """
    _check_constructor(cls, findings)
    setup = _hook(cls, "setup", findings)
    parameters = _setup_parameters(cls, setup, models, scope, findings, has_engine=has_engine)
    for name in ("warmup", "shutdown"):
        hook = _hook(cls, name, findings)
        if hook is not None:
            _refuse_required(f"{cls.__name__}.{name}", hook, (), findings)
    shutdown = _hook(cls, "shutdown", findings, is_checked=True)
    if is_serial and shutdown is not None and shape_of(shutdown) != "sync":
        findings.add("invalid_hook", "shutdown must not be async", "write a plain def")
    return Hooks(
        setup_parameters=parameters,
        has_setup=setup is not None,
        has_warmup=hasattr(cls, "warmup"),
        has_shutdown=shutdown is not None,
        is_setup_async=setup is not None and shape_of(setup) == "async",
    )


def _hook(cls: type, name: str, findings: Findings, *, is_checked: bool = False) -> Any:
    """Return the plain method of that name; None when there is none."""
    member = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    if member is None or isinstance(member, FunctionType):
        return member
    if not is_checked:
        findings.add("invalid_hook", f"{name} must be a method, not {member!r}", wrong_type=True)
    return None


def _check_constructor(cls: type, findings: Findings) -> None:
    constructor = cls.__init__  # type: ignore[misc]  # looked at, not called
    if isinstance(constructor, FunctionType):
        required = [a.name for a in arguments_of(constructor)[1:] if a.is_required]
        if required:
            findings.add(
                "constructor_arguments",
                f"__init__ needs {', '.join(required)}, but instances are made without arguments",
                "take models in setup",
            )


def _setup_parameters(
    cls: type,
    setup: Any,
    models: Mapping[str, Any],
    scope: Mapping[str, Any],
    findings: Findings,
    *,
    has_engine: bool,
) -> tuple[ModelParameter, ...]:
    arguments = arguments_of(setup)[1:] if setup is not None else ()
    names = {a.name for a in arguments if a.how in ("positional", "keyword")}
    takes_any = any(a.how == "keywords" for a in arguments)
    hints: dict[str, Any] = {}
    if setup is not None:
        file, line = place_of(setup)
        inside = findings.at(f"{cls.__name__}.setup", file, line)
        hints = hints_of(setup, scope, inside)
        known = {*models, "engine"} if has_engine else set(models)
        _refuse_required(f"{cls.__name__}.setup", setup, known, findings)
    parameters = []
    for name, binding in models.items():
        if not is_binding(binding):
            continue
        if binding.is_per_call:
            if name in names:
                findings.add(
                    "model_in_setup",
                    f"setup takes {name!r}, which is chosen per call",
                    "take it as a parameter of the method",
                )
        elif name in names or takes_any:
            annotation = bare_and_binding(hints.get(name, Any))[0]
            check_binding(binding, name, None, findings)
            parameters.append(ModelParameter(name, binding, annotation))
        else:
            findings.add(
                "unknown_model_parameter",
                f"models[{name!r}] names no parameter of setup",
                f"write def setup(self, {name})",
            )
    return tuple(parameters)


def _refuse_required(subject: str, hook: Any, known: Iterable[str], findings: Findings) -> None:
    """Report parameters of a hook that nothing fills."""
    file, line = place_of(hook)
    arguments = arguments_of(hook)
    inside = findings.at(subject, file, line)
    if not arguments or not arguments[0].takes_position:
        inside.add("invalid_hook", "takes no self")
    for argument in arguments[1:]:
        if _is_unfilled(argument, set(known)):
            inside.add(
                "invalid_hook",
                f"nothing supplies parameter {argument.name!r}",
                "bind a model to it in models=, or remove it",
            )


def _is_unfilled(argument: Argument, known: set[str]) -> bool:
    if argument.how == "positional_only":
        return argument.is_required
    return argument.is_required and argument.name not in known
