"""Models that a function names by a key of endpoint.toml, made into refs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.models.injection import resolve_keyspace
from gen_worker.problems import ProblemsError
from gen_worker.spec import Binding, FunctionSpec, ModelParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.project import Project

__all__ = ["KeyedBinding", "with_refs"]


def with_refs(
    functions: Iterable[FunctionSpec], project: Project | None
) -> tuple[FunctionSpec, ...]:
    """Return the functions with bindings that look their keys up in the project's `[models]`.

    Raises:
        ProblemsError: A function needs a key that endpoint.toml does not have.
    """
    functions = tuple(functions)
    if project is not None:
        from gen_worker.discovery.checks import project_problems

        problems = project_problems(project, functions)
        if problems:
            raise ProblemsError(problems)
    return tuple(_with_refs(spec, project) for spec in functions)


def _with_refs(spec: FunctionSpec, project: Project | None) -> FunctionSpec:
    keyspaces: dict[str, Mapping[str, Any]] = {}
    if project is not None:
        payload = project.models_by_function.get(spec.name, {})
        keyspaces = {"fixed": project.models, "payload": payload}
    parameters = tuple(
        msgspec.structs.replace(p, binding=KeyedBinding(p.binding, keyspaces))
        if isinstance(p, ModelParameter) and p.binding.dialect == "injection"
        else p
        for p in spec.parameters
    )
    return msgspec.structs.replace(spec, parameters=parameters)


class KeyedBinding:
    """A binding of the older dialect together with the keys of its project."""

    def __init__(self, binding: Binding, keyspaces: Mapping[str, Mapping[str, Any]]) -> None:
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
        return resolve_keyspace(self._binding.choose(parameter, payload, override), self._keyspaces)

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        return self._binding.to_lock(parameter, annotation)

    def describe(self) -> dict[str, Any]:
        return self._binding.describe()
