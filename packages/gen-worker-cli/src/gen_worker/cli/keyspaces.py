"""Models that a function names by a key of endpoint.toml, made into refs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.models.keyed import with_keyspaces
from gen_worker.problems import ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.project import Project
    from gen_worker.spec import FunctionSpec

__all__ = ["with_refs"]


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
    return with_keyspaces(spec, lambda: keyspaces)
