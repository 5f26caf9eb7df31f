"""Models that a function names by a key, whose ref somebody else keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.models.injection import ModelRef, ModelRefSource, resolve_keyspace
from gen_worker.spec import ModelParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gen_worker.models.injection import Keyspaces
    from gen_worker.spec import Binding, FunctionSpec

__all__ = ["KeyedBinding", "declared_binding", "declared_choices", "with_keyspaces"]


class KeyedBinding:
    """A binding of the older dialect together with the refs behind its keys."""

    def __init__(self, binding: Binding, keyspaces: Callable[[], Keyspaces]) -> None:
        self._binding = binding
        self._keyspaces = keyspaces

    @property
    def slot_name(self) -> str:
        return self._binding.slot_name

    @property
    def dialect(self) -> Literal["binding", "injection"]:
        return self._binding.dialect

    @property
    def is_per_call(self) -> bool:
        return self._binding.is_per_call

    @property
    def declared(self) -> Binding:
        """What the author wrote."""
        return self._binding

    def check(self, parameter: str, payload_type: type | None) -> None:
        self._binding.check(parameter, payload_type)

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        choice = self._binding.choose(parameter, payload, override)
        return resolve_keyspace(choice, self._keyspaces())

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        return self._binding.to_lock(parameter, annotation)

    def describe(self) -> dict[str, Any]:
        return self._binding.describe()


def with_keyspaces(spec: FunctionSpec, keyspaces: Callable[[], Keyspaces]) -> FunctionSpec:
    """Return a function whose bindings look their keys up.

    Args:
        spec: As its decorator left it.
        keyspaces: Says what the function's keys mean at the moment; asked for each choice.
    """
    if all(model.binding.dialect != "injection" for model in spec.models.values()):
        return spec
    parameters = tuple(
        msgspec.structs.replace(p, binding=KeyedBinding(p.binding, keyspaces))
        if isinstance(p, ModelParameter) and p.binding.dialect == "injection"
        else p
        for p in spec.parameters
    )
    return msgspec.structs.replace(spec, parameters=parameters)


def declared_binding(binding: Binding) -> Binding:
    """Return a binding as its author wrote it."""
    return binding.declared if isinstance(binding, KeyedBinding) else binding


def declared_choices(
    parameter: str, binding: Binding, payload_keys: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield every model that a binding may load without a caller who chooses freely.

    Args:
        parameter: Which receives it.
        binding: Of the parameter.
        payload_keys: What a payload may name where the binding itself does not know.

    Raises:
        ValidationError: A key names no model.
        ModelResolutionError: The author's own key does not.
    """
    from gen_worker.models.dispatching import Dispatch

    declared = declared_binding(binding)
    if not binding.is_per_call:
        yield binding.choose(parameter, {}, None)
    elif isinstance(declared, Dispatch):
        for key in declared.table:
            yield binding.choose(parameter, {declared.field: key}, None)
    elif isinstance(declared, ModelRef):
        if declared.source is not ModelRefSource.PAYLOAD_REF:
            for key in payload_keys:
                yield binding.choose(parameter, {declared.key: key}, None)
        elif declared.ref is not None:
            yield binding.choose(parameter, {}, None)
