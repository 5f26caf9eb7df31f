"""What is wrong with a module of jobs, before anybody runs one."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Literal

import msgspec

from gen_worker.endpoint.jobs import RECOMMENDED_KINDS
from gen_worker.endpoint.problems import DefinitionError
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from types import ModuleType

    from gen_worker.spec import FunctionSpec

__all__ = [
    "ValidationReport",
    "ValidationViolation",
    "format_report",
    "validate_transform_module",
]

ViolationKind = Literal[
    "import_failed",
    "decorator_error",
    "unresolved_annotation",
    "duplicate_function_name",
    "endpoint_kind_mismatch",
    "kind_label_suspect",
]
_UNRESOLVED = "unresolved_annotation"
_JOBS = ("conversion", "dataset", "training")


class ValidationViolation(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake."""

    kind: ViolationKind
    message: str
    function: str = ""
    """Whose mistake it is; empty where it is the module's."""
    is_warning: bool = False


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one module."""

    module: str
    functions: tuple[str, ...] = ()
    """Routable names of its jobs."""
    violations: tuple[ValidationViolation, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no mistakes; warnings are none."""
        return all(violation.is_warning for violation in self.violations)


def validate_transform_module(
    module_name: str, *, expected_kind: str | None = None
) -> ValidationReport:
    """Import a module and check the jobs in it.

    Args:
        module_name: As in an import.
        expected_kind: What every job in it should do, such as `quantization`, where a detail after
            a colon is free; or its endpoint kind, such as `dataset`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels: they are reported below
            module = importlib.import_module(module_name)
    except DefinitionError as error:
        return ValidationReport(module=module_name, violations=tuple(_of_definition(error)))
    except Exception as error:  # an author's module may raise anything
        message = f"{type(error).__name__}: {error}"
        failed = ValidationViolation(kind="import_failed", message=message)
        return ValidationReport(module=module_name, violations=(failed,))
    specs = _specs_in(module)
    violations = [*_duplicates(specs)]
    for spec in specs:
        violations += _of_kind(spec, expected_kind)
    names = tuple(spec.name for spec in specs)
    return ValidationReport(module=module_name, functions=names, violations=tuple(violations))


def format_report(report: ValidationReport) -> str:
    """Return a report as lines for people."""
    count = len(report.functions)
    head = f"{report.module}: {'ok' if report.ok else 'failed'}, {count} jobs"
    lines = [
        f"  {'warning' if one.is_warning else 'error'} {one.kind}"
        f"{f' in {one.function}' if one.function else ''}: {one.message}"
        for one in report.violations
    ]
    return "\n".join([head, *lines])


def _of_definition(error: DefinitionError) -> list[ValidationViolation]:
    return [
        ValidationViolation(
            kind="unresolved_annotation" if problem.code == _UNRESOLVED else "decorator_error",
            message=f"{problem.message}: {problem.hint}" if problem.hint else problem.message,
        )
        for problem in error.problems
    ]


def _specs_in(module: ModuleType) -> list[FunctionSpec]:
    """Return the jobs a module defines itself; one under two names counts once."""
    found = {
        id(spec.function): spec
        for member in vars(module).values()
        for spec in specs_of(member)
        if spec.module == module.__name__ and spec.kind in _JOBS
    }
    return list(found.values())


def _duplicates(specs: list[FunctionSpec]) -> list[ValidationViolation]:
    names = [spec.name for spec in specs]
    return [
        ValidationViolation(
            kind="duplicate_function_name",
            message=f"{names.count(name)} jobs are called {name!r}: name all but one otherwise",
            function=name,
        )
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def _of_kind(spec: FunctionSpec, expected: str | None) -> list[ValidationViolation]:
    usual = "dataset-generation" if spec.kind == "dataset" else spec.kind
    label = spec.job_kind or spec.sub_kind or usual
    coarse = label.partition(":")[0]
    found = []
    if expected is not None and expected.partition(":")[0] not in (coarse, spec.kind):
        found.append(
            ValidationViolation(
                kind="endpoint_kind_mismatch",
                message=f"it is a job of kind {label!r}, not {expected!r}",
                function=spec.name,
            )
        )
    if spec.job_kind and coarse not in RECOMMENDED_KINDS:
        found.append(
            ValidationViolation(
                kind="kind_label_suspect",
                message=f"kind {label!r} is none of {', '.join(RECOMMENDED_KINDS)}",
                function=spec.name,
                is_warning=True,
            )
        )
    return found
