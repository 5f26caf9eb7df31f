"""Questions about annotations that several rules ask."""

from __future__ import annotations

import sys
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard, Union, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from gen_worker.spec import Binding, EndpointKind

__all__ = [
    "bare_and_binding",
    "is_binding",
    "is_context",
    "is_struct",
    "list_item",
    "members_of",
    "show",
    "wanted_context",
]

_BINDING_METHODS = ("check", "choose", "to_lock", "describe")
_CONTEXTS: dict[EndpointKind | None, tuple[str, ...]] = {
    None: ("RequestContext",),  # every context is one of these
    "inference": ("RequestContext",),
    "training": ("TrainingContext", "ConversionContext"),
    "conversion": ("ConversionContext",),
    "dataset": ("DatasetContext",),
}


def is_struct(annotation: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def is_binding(value: object) -> TypeGuard[Binding]:
    """Tell a binding instance by its methods.

    `isinstance` with the protocol would import `inspect` from Python 3.12 on, and take a class.
    """
    return all(callable(getattr(type(value), name, None)) for name in _BINDING_METHODS)


def bare_and_binding(annotation: Any) -> tuple[Any, Binding | None]:
    """Take `Annotated` apart: the type itself, and the first binding among the metadata."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    bare, *metadata = get_args(annotation)
    return bare, next((item for item in metadata if is_binding(item)), None)


def list_item(annotation: Any) -> Any:
    """Return `T` of `list[T]`, None for everything else."""
    if get_origin(annotation) is not list:
        return None
    return bare_and_binding(get_args(annotation)[0])[0]


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; anything else is its own only member."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def is_context(annotation: Any, kind: EndpointKind | None) -> bool:
    """Tell whether the context of `kind` may be annotated so; None is any kind.

    Bases and subclasses of the kind's context, protocols, `Any` and unions with one of these are
    fine. The context module is looked up, not imported: an annotation with one of its classes
    imported it already.
    """
    contexts = sys.modules.get("gen_worker.context")
    allowed = [getattr(contexts, name) for name in _CONTEXTS[kind]] if contexts else []
    return any(_may_be_context(member, allowed) for member in members_of(annotation))


def wanted_context(annotation: Any) -> Any:
    """Return the class of producers' contexts that an annotation asks for; None for no certain one.

    Looked up like `is_context`: who names such a class has imported it.
    """
    producers = sys.modules.get("gen_worker.context.producers")
    base = getattr(producers, "ProducerContext", None)
    found = [cls for cls in members_of(annotation) if isinstance(cls, type)]
    return found[0] if base and len(found) == 1 and issubclass(found[0], base) else None


def _may_be_context(annotation: Any, allowed: list[type]) -> bool:
    if annotation is Any or annotation is object or getattr(annotation, "_is_protocol", False):
        return True
    if not isinstance(annotation, type):
        return False
    return any(issubclass(annotation, cls) or issubclass(cls, annotation) for cls in allowed)


def show(annotation: Any) -> str:
    """Name a type the way an author writes it."""
    if isinstance(annotation, type):
        return annotation.__qualname__
    try:
        text = str(annotation)
    except Exception:  # an author's object; its type is all that can be said
        text = f"<{type(annotation).__name__}>"
    return text.replace("typing.", "").replace("collections.abc.", "")
