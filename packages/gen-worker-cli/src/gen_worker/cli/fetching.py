"""Which models a project declares: what `gen-worker prefetch` fetches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models import ModelRef, ModelRefSource
from gen_worker.models.choice import ModelChoice
from gen_worker.models.keyed import declared_binding, declared_choices
from gen_worker.models.shared import variant_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.cli.project import Endpoint
    from gen_worker.spec import Binding, FunctionSpec

__all__ = ["Job", "Plan", "plan"]

# Where a choice ends up does not change which files it is.
_NOWHERE = {"slot_name": "", "key": "", "source": ""}


class Job(NamedTuple):
    """One model to fetch, once however often it is declared."""

    choice: ModelChoice
    ref: str
    provider: str


class Plan(NamedTuple):
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]
    """Declared models that are left out, and why."""


def plan(endpoint: Endpoint, *, all_variants: bool) -> Plan:
    """List every model the project declares, each (ref, options) pair once."""
    jobs: dict[bytes, Job] = {}
    notes: list[str] = []
    for spec in endpoint.functions:
        for name in spec.bindings:
            where = f"{spec.registered_name}: model {name!r}"
            try:
                for record in _choices(endpoint, spec, name, all_variants=all_variants):
                    for choice in _files_of(spec.bindings[name].binding, record):
                        job = Job(choice, str(choice.target), choice.provider)
                        jobs.setdefault(msgspec.json.encode(choice, order="sorted"), job)
            except _LeftOutError as reason:
                notes.append(f"{where} is left out: {reason}")
            except (ValidationError, ModelResolutionError) as error:
                notes.append(f"{where} is left out: {error}")
    return Plan(tuple(jobs.values()), tuple(dict.fromkeys(notes)))


class _LeftOutError(Exception):
    """A binding that names no model by itself."""


def _choices(
    endpoint: Endpoint, spec: FunctionSpec, name: str, *, all_variants: bool
) -> Iterator[dict[str, Any]]:
    binding = spec.bindings[name].binding
    declared = declared_binding(binding)
    if isinstance(declared, ModelRef) and declared.source is ModelRefSource.PAYLOAD_REF:
        raise _LeftOutError("callers choose it freely")
    if binding.is_per_call and not all_variants:
        raise _LeftOutError("the payload chooses it; --all-variants fetches every choice")
    project = endpoint.project
    keys = project.models_by_function.get(spec.name, {}) if project is not None else ()
    yield from declared_choices(name, binding, keys)


def _files_of(binding: Binding, record: Mapping[str, Any]) -> Iterator[ModelChoice]:
    """Yield what has files of its own: the model, or each part of a variant."""
    choice = ModelChoice.from_record(record)
    variant = variant_of(binding, choice)
    parts = [choice]
    if variant is not None:
        repos = (*variant.shared_components.values(), *variant.variant_slots.values())
        parts = [repo.choice for repo in repos]
    for part in parts:
        yield msgspec.structs.replace(part, **_NOWHERE)
