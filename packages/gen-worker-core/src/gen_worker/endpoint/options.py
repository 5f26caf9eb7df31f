"""Reads the options of a decorator: each value checked, trimmed, and reported when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from gen_worker.endpoint.annotations import is_binding
from gen_worker.names import slugify_name
from gen_worker.resources import ResourceRequirements, Resources

if TYPE_CHECKING:
    from gen_worker.endpoint.problems import Findings

__all__ = [
    "CALIBRATION_POLICIES",
    "Concurrency",
    "FunctionOptions",
    "read_calibration",
    "read_concurrency",
    "read_function_options",
    "read_function_resources",
    "read_models",
    "read_resources",
    "read_route",
    "read_shapes",
    "read_text",
]

Concurrency = Literal["sequential", "batched", "concurrent"]
CALIBRATION_POLICIES = ("required", "beneficial", "unsupported")


class FunctionOptions(msgspec.Struct, frozen=True):
    """What every function may be given, whichever decorator defines it; not checked yet."""

    name: Any = None
    label: Any = None
    description: Any = None
    timeout_ms: Any = None
    rate_limit_per_invoker: Any = None
    allowed_shapes: Any = None
    must_stream: bool = False
    """Whether only an async generator may carry the mark."""


def read_function_options(
    options: FunctionOptions, python_name: str, findings: Findings
) -> dict[str, Any]:
    """Return the options as keywords of `FunctionSpec`."""
    registered, slug = read_route(options.name, python_name, findings)
    return {
        "registered_name": registered,
        "name": slug,
        "label": read_text(options.label, "label", findings),
        "description": read_text(options.description, "description", findings),
        "timeout_ms": _read_positive(options.timeout_ms, "timeout_ms", findings),
        "rate_limit_per_invoker": _read_positive(
            options.rate_limit_per_invoker, "rate_limit_per_invoker", findings
        ),
        "allowed_shapes": read_shapes(options.allowed_shapes, findings),
    }


def read_route(given: Any, default: str, findings: Findings, what: str = "name") -> tuple[str, str]:
    """Return the registered name and its slug."""
    if given is not None and not isinstance(given, str):
        findings.add("invalid_name", f"{what} must be text, not {given!r}", wrong_type=True)
        return default, slugify_name(default)
    registered = default if given is None else given.strip()
    slug = slugify_name(registered)
    if not slug:
        findings.add(
            "invalid_name",
            f"nothing routable is left of {what} {registered!r}",
            "use letters and digits of a-z, 0-9",
        )
    return registered, slug


def read_text(given: Any, name: str, findings: Findings) -> str | None:
    """Return trimmed text; None when there is none."""
    if given is not None and not isinstance(given, str):
        findings.add("invalid_option", f"{name} must be text, not {given!r}", wrong_type=True)
        return None
    return (given or "").strip() or None


def _read_positive(given: Any, name: str, findings: Findings) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        findings.add("invalid_option", f"{name} must be an int, not {given!r}", wrong_type=True)
    elif given <= 0:
        findings.add("invalid_option", f"{name} must be above 0, not {given!r}")
    return given  # type: ignore[no-any-return]  # a wrong value is reported and raised later


def read_shapes(given: Any, findings: Findings) -> tuple[tuple[int, ...], ...]:
    """Return `allowed_shapes` as tuples."""
    rows = given if isinstance(given, Sequence) and not isinstance(given, str) else None
    if given is None:
        return ()
    if rows is None or not all(
        isinstance(row, Sequence) and row and all(type(size) is int and size > 0 for size in row)
        for row in rows
    ):
        findings.add(
            "invalid_option",
            f"allowed_shapes must list shapes of positive ints, not {given!r}",
            "write [(1024, 1024), (768, 1344)]",
        )
        return ()
    return tuple(tuple(row) for row in rows)


def read_resources(given: Any, findings: Findings) -> Resources:
    """Return the resources; nothing given needs nothing."""
    if isinstance(given, Resources):
        return given
    if given is not None:
        findings.add(
            "invalid_resources",
            f"resources must be a Resources record, not {given!r}",
            "write resources=Resources(...)",
            wrong_type=True,
        )
    return Resources()


def read_function_resources(given: Any, findings: Findings) -> Resources | ResourceRequirements:
    """Return the resources of a function, which may be written the older way."""
    if isinstance(given, ResourceRequirements):
        return given
    return read_resources(given, findings)


def read_models(given: Any, findings: Findings) -> dict[str, Any]:
    """Return the bindings by parameter name.

    Values that are no bindings are reported and kept, so that their parameters count as bound.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        findings.add(
            "invalid_models",
            f"models must map parameter names to bindings, not {given!r}",
            'write models={"pipe": Repo("main_model", "owner/repo")}',
            wrong_type=True,
        )
        return {}
    for name, binding in given.items():
        if not is_binding(binding):
            findings.add(
                "invalid_models",
                f"models[{name!r}] must be a binding such as Repo or dispatch, not {binding!r}",
                wrong_type=True,
            )
    return dict(given)


def read_concurrency(given: Any, findings: Findings) -> Concurrency | None:
    """Return the older scheduling hint."""
    if given is not None and given not in get_args(Concurrency):
        allowed = ", ".join(map(repr, get_args(Concurrency)))
        findings.add("invalid_concurrency", f"concurrency must be one of {allowed}, not {given!r}")
    return given  # type: ignore[no-any-return]  # a wrong value is reported and raised later


def read_calibration(given: Any, findings: Findings) -> dict[str, str] | None:
    """Return scheme -> policy; one policy for all schemes is stored under `*`."""
    if given is None:
        return None
    policies = {"*": given} if isinstance(given, str) else given
    if (
        not isinstance(policies, Mapping)
        or not all(isinstance(scheme, str) and scheme for scheme in policies)
        or not all(policy in CALIBRATION_POLICIES for policy in policies.values())
    ):
        findings.add(
            "invalid_calibration",
            f"calibration must map schemes to policies, not {given!r}",
            f"the policies are {', '.join(CALIBRATION_POLICIES)}",
            wrong_type=True,
        )
        return None
    return dict(policies)
