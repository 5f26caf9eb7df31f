"""Fields of a payload that decide which model a call gets."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from gen_worker.models.declaration import BindingError

__all__ = ["field_type", "listed", "names_of", "value_of"]


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def value_of(payload: Any, field: str) -> Any:
    value = payload.get(field) if isinstance(payload, Mapping) else getattr(payload, field, None)
    return value.value if isinstance(value, enum.Enum) else value


def field_type(where: str, field: str, payload_type: type | None) -> Any:
    if not (isinstance(payload_type, type) and issubclass(payload_type, msgspec.Struct)):
        raise BindingError(
            f"{where}: there is no payload struct to look in", code="model_field_unknown"
        )
    fields = {f.name: f.type for f in msgspec.structs.fields(payload_type)}
    if field not in fields:
        raise BindingError(
            f"{where} is not a field of {payload_type.__name__}: use one of {listed(fields)}",
            code="model_field_unknown",
        )
    return fields[field]


def names_of(annotation: Any) -> list[str]:
    """Return the names a value of this type can be; empty when it can be anything else."""
    annotation = getattr(annotation, "__value__", annotation)  # `type Quality = Literal[...]`
    origin = get_origin(annotation)
    if origin is Annotated:
        return names_of(get_args(annotation)[0])
    if origin is Literal:
        names = [_plain(arg) for arg in get_args(annotation) if arg is not None]
        return names if all(isinstance(name, str) for name in names) else []
    if origin in (Union, types.UnionType):
        parts = [names_of(arg) for arg in get_args(annotation) if arg is not type(None)]
        return [name for part in parts for name in part] if all(parts) else []
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        names = [member.value for member in annotation]
        return names if all(isinstance(name, str) for name in names) else []
    return []


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value
