"""The options of a class decorator, read once for all its functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.endpoint.options import (
    read_calibration,
    read_models,
    read_resources,
    read_shapes,
    read_text,
)
from gen_worker.resources import Resources
from gen_worker.spec import Batching, EndpointKind

if TYPE_CHECKING:
    from gen_worker.endpoint.problems import Findings

__all__ = ["ClassFacts", "ClassOptions", "read_class_options"]

_RUNTIMES = ("sglang", "vllm")


class ClassOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a class decorator was given; not checked yet."""

    label: Any = None
    description: Any = None
    resources: Any = None
    models: Any = None
    allowed_shapes: Any = None
    runtime: Any = None
    sub_kind: Any = None
    batch_window_ms: Any = None
    max_batch: Any = None
    prefer_distilled: Any = False
    calibration: Any = None
    parametrize: Any = None
    is_batched_class: bool = False


class ClassFacts(msgspec.Struct, frozen=True):
    """What all functions of one class share."""

    cls: type
    kind: EndpointKind
    decorator: str
    """Its name without `@`."""
    archetype: Literal["SerialWorker", "BatchedWorker"]
    scope: Mapping[str, Any]
    """Local names for string annotations."""
    file: str
    label: str | None
    description: str | None
    resources: Resources
    models: Mapping[str, Any]
    """May hold values that are no bindings; those are reported."""
    allowed_shapes: tuple[tuple[int, ...], ...]
    runtime: str | None
    sub_kind: str | None
    batching: Batching | None
    prefer_distilled: bool
    calibration: Mapping[str, str] | None


def read_class_options(
    cls: type,
    kind: EndpointKind,
    options: ClassOptions,
    scope: Mapping[str, Any],
    findings: Findings,
) -> ClassFacts:
    """Check the options and report what is wrong with them."""
    runtime = _read_runtime(options.runtime, findings)
    is_batched = options.is_batched_class or runtime is not None
    return ClassFacts(
        cls=cls,
        kind=kind,
        decorator="batched_inference" if options.is_batched_class else kind,
        archetype="BatchedWorker" if is_batched else "SerialWorker",
        scope=scope,
        file=findings.file,
        label=read_text(options.label, "label", findings),
        description=read_text(options.description, "description", findings),
        resources=read_resources(options.resources, findings),
        models=read_models(options.models, findings),
        allowed_shapes=read_shapes(options.allowed_shapes, findings),
        runtime=runtime,
        sub_kind=read_text(options.sub_kind, "sub_kind", findings),
        batching=_read_batching(options.batch_window_ms, options.max_batch, findings),
        prefer_distilled=_read_flag(options.prefer_distilled, findings),
        calibration=read_calibration(options.calibration, findings),
    )


def _read_runtime(given: Any, findings: Findings) -> str | None:
    if given is None or given in _RUNTIMES:
        return given  # type: ignore[no-any-return]  # narrowed by the tuple
    allowed = " or ".join(map(repr, _RUNTIMES))
    findings.add("invalid_runtime", f"runtime must be {allowed}, not {given!r}")
    return None


def _read_flag(given: Any, findings: Findings) -> bool:
    if not isinstance(given, bool):
        findings.add(
            "invalid_option",
            f"prefer_distilled must be True or False, not {given!r}",
            wrong_type=True,
        )
    return bool(given)


def _read_batching(window_ms: Any, max_batch: Any, findings: Findings) -> Batching | None:
    if window_ms is None and max_batch is None:
        return None
    found = len(findings)
    for name, value, other in (
        ("batch_window_ms", window_ms, "max_batch"),
        ("max_batch", max_batch, "batch_window_ms"),
    ):
        if value is None:
            findings.add("invalid_batching", f"{other} is given without {name}", "give both")
    if window_ms is not None and (not _is_number(window_ms) or window_ms <= 0):
        findings.add(
            "invalid_batching", f"batch_window_ms must be a number above 0, not {window_ms!r}"
        )
    if max_batch is not None and (type(max_batch) is not int or max_batch < 2):
        findings.add(
            "invalid_batching", f"max_batch must be an int of at least 2, not {max_batch!r}"
        )
    if len(findings) > found:
        # Batches are meant: a method that takes lists is no mistake of its own.
        return Batching(window_ms=1.0, max_batch=2)
    return Batching(window_ms=float(window_ms), max_batch=max_batch)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
