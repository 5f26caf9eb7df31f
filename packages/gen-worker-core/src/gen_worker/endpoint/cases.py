"""`Case`: one class body, several functions that differ in name, resources, model or payload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.endpoint.annotations import is_binding, is_struct
from gen_worker.names import slugify_name
from gen_worker.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.endpoint.problems import Findings
    from gen_worker.spec import Binding

__all__ = ["Case", "read_cases"]


class Case(msgspec.Struct, frozen=True):
    """One row of `parametrize=`: a function of its own."""

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            resources: Resources | None = None,
            model: Binding | None = None,
            input: type[msgspec.Struct] | None = None,
        ) -> None: ...

    name: Any
    """Name callers use."""
    resources: Any = None
    """Replaces the class's resources."""
    model: Any = None
    """Replaces the class's only model; the row then has an instance of its own."""
    input: Any = None
    """Replaces the method's payload type."""


def read_cases(
    given: Any, method_count: int, models: Mapping[str, Any], findings: Findings
) -> tuple[Case, ...]:
    """Return the usable rows of `parametrize=`; report everything else."""
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        findings.add(
            "invalid_case",
            f"parametrize must list at least one Case, not {given!r}",
            'write parametrize=[Case("small"), Case("large")]',
            wrong_type=not isinstance(given, Sequence),
        )
        return ()
    if method_count != 1:
        findings.add(
            "invalid_case",
            f"parametrize needs exactly one marked method, the class has {method_count}",
            "give every method a class of its own",
        )
    rows = [row for row in given if _is_case(row, findings)]
    slugs: dict[str, str] = {}
    for row in rows:
        _check_row(row, models, findings)
        if isinstance(row.name, str):
            _check_name(row.name, slugs, findings)
    return tuple(rows)


def _is_case(row: Any, findings: Findings) -> bool:
    if isinstance(row, Case):
        return True
    findings.add("invalid_case", f"{row!r} is not a Case", wrong_type=True)
    return False


def _check_name(name: str, slugs: dict[str, str], findings: Findings) -> None:
    slug = slugify_name(name)
    if not slug:
        findings.add("invalid_name", f"nothing routable is left of Case name {name!r}")
    elif slug in slugs:
        findings.add(
            "duplicate_name", f"Case names {slugs[slug]!r} and {name!r} are both routed as {slug!r}"
        )
    slugs.setdefault(slug, name)


def _check_row(row: Case, models: Mapping[str, Any], findings: Findings) -> None:
    where = f"Case {row.name!r}"
    if not isinstance(row.name, str):
        findings.add("invalid_name", f"{where}: its name must be text", wrong_type=True)
    if not isinstance(row.resources, (Resources, type(None))):
        findings.add(
            "invalid_resources",
            f"{where}: resources must be a Resources record, not {row.resources!r}",
            wrong_type=True,
        )
    if row.input is not None and not is_struct(row.input):
        findings.add(
            "invalid_case",
            f"{where}: input must be a msgspec.Struct subclass, not {row.input!r}",
            wrong_type=True,
        )
    if row.model is not None:
        _check_model(row, where, models, findings)


def _check_model(row: Case, where: str, models: Mapping[str, Any], findings: Findings) -> None:
    if not is_binding(row.model):
        findings.add(
            "invalid_case",
            f"{where}: model must be a binding such as Repo, not {row.model!r}",
            wrong_type=True,
        )
    elif len(models) != 1:
        findings.add(
            "invalid_case",
            f"{where}: model replaces the class's only model, the class has {len(models)}",
            "declare exactly one in models=",
        )
    elif row.model.is_per_call != _is_per_call(next(iter(models.values()))):
        findings.add(
            "invalid_case",
            f"{where}: one of its model and the class's is chosen per call, the other is not",
            "use two fixed models or two dispatch tables",
        )


def _is_per_call(binding: Any) -> bool:
    return is_binding(binding) and binding.is_per_call
