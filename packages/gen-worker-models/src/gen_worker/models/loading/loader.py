"""Carry out a plan with the libraries' public `from_pretrained` and `from_single_file`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from gen_worker.cancel import CancelToken
from gen_worker.models.loading.classes import is_auto, kind_of, name_of, pipeline_parts
from gen_worker.models.loading.compatibility import reported
from gen_worker.models.loading.errors import (
    ConfigNeededError,
    MissingComponentsError,
    TypeMismatchError,
)
from gen_worker.models.loading.libraries import library, quiet
from gen_worker.models.loading.quantized import config_for, require_packages
from gen_worker.models.loading.steps import install_hooks
from gen_worker.models.loading.values import ComponentPlan, Loaded, LoadPlan
from gen_worker.models.loading.view import Sight, View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load"]

_LIBRARIES = {
    "pipeline": ("diffusers", "transformers"),
    "auto_pipeline": ("diffusers", "transformers"),
    "diffusers_model": ("diffusers",),
    "transformers_model": ("transformers",),
}


def load(
    plan: LoadPlan,
    *,
    token: CancelToken | None = None,
    tell: Callable[[str, dict[str, Any]], None] | None = None,
    components: Mapping[str, Any] | None = None,
) -> Loaded:
    """Make the object that a plan describes, on the CPU. Blocks; thread-safe.

    Nothing is fetched, no code of the model is run, and the model's files are not changed.

    Args:
        plan: From `plan`.
        token: Checked before each component; one that is being read is read to its end.
        tell: Gets `model.load.started`, and `.completed` or `.failed`.
        components: Live objects that stand for components, by name; they are taken by reference.

    Raises:
        CanceledError: The token was tripped.
        RefCompatibilitySurprise: The caller chose the model, and it does not fit.
        ModelLoadError: The owner's model does not fit, or a package is missing.
    """
    from time import perf_counter

    token = token or CancelToken()
    tell = tell or _say_nothing
    started = perf_counter()
    tell("model.load.started", {"model_id": plan.ref})
    try:
        with reported(plan):
            loaded = _load(plan, token, dict(components or {}))
    except BaseException:
        tell("model.load.failed", _report(plan, started, "load_failed"))
        raise
    tell("model.load.completed", _report(plan, started, ""))
    return loaded


def _say_nothing(kind: str, payload: dict[str, Any]) -> None:
    pass


def _report(plan: LoadPlan, started: float, error_type: str) -> dict[str, Any]:
    from time import perf_counter

    duration_ms = int((perf_counter() - started) * 1000)
    return {"model_id": plan.ref, "duration_ms": duration_ms, "error_type": error_type}


def _load(plan: LoadPlan, token: CancelToken, given: dict[str, Any]) -> Loaded:
    if plan.method == "path":
        return Loaded(object=_path_as(plan.cls, plan.path), size_bytes=0)
    for part in plan.components:
        require_packages(part.packages, plan.ref)
    sight = _sight_of(plan)
    try:
        with quiet(*_LIBRARIES.get(kind_of(plan.cls), ())):
            loaded = _assembled(plan, sight, token, given)
        _check_type(plan, loaded.object)
    except BaseException:
        sight.close()
        raise
    install_hooks(loaded.object)
    sight.close_with(loaded.object)
    return loaded


def _path_as(cls: Any, path: str) -> Any:
    if cls is None or cls is str:
        return path
    from pathlib import Path

    return Path(path)


def _sight_of(plan: LoadPlan) -> Sight:
    if not plan.needs_view:
        return Sight({})
    changes = {"model_index.json": dict(plan.index)} if plan.index else {}
    return Sight({plan.path: View(plan.path, changes)})


def _assembled(plan: LoadPlan, sight: Sight, token: CancelToken, given: dict[str, Any]) -> Loaded:
    from gen_worker.models.residency.weights import weight_bytes

    if plan.method != "pipeline":
        (part,) = plan.components
        token.raise_if_canceled()
        value = _load_part(plan, part, sight)
        return Loaded(
            object=value,
            size_bytes=weight_bytes(value),
            components=_components_of(value) if plan.is_pipeline else {},
            is_pipeline=plan.is_pipeline,
        )
    shared = tuple(given)
    for part in plan.components:
        if part.name not in given:
            token.raise_if_canceled()
            given[part.name] = None if part.method == "absent" else _load_part(plan, part, sight)
    token.raise_if_canceled()
    pipeline = _pipeline(plan, sight, given)
    return Loaded(
        object=pipeline,
        size_bytes=weight_bytes(pipeline),
        components=_components_of(pipeline),
        is_pipeline=True,
        shared=shared,
    )


def _components_of(pipeline: Any) -> dict[str, Any]:
    return {name: part for name, part in pipeline.components.items() if part is not None}


def _pipeline(plan: LoadPlan, sight: Sight, components: dict[str, Any]) -> Any:
    """Let the pipeline class put together what is loaded already."""
    cls = plan.cls
    concrete = getattr(library("diffusers"), plan.index["_class_name"]) if is_auto(cls) else cls
    options: dict[str, Any] = {}
    takes = pipeline_parts(concrete).others
    if components.get("safety_checker") is None and "requires_safety_checker" in takes:
        options["requires_safety_checker"] = False
    path = sight.of(plan.path)
    with _one_at_a_time:
        pipeline = concrete.from_pretrained(path, local_files_only=True, **components, **options)
        return cls.from_pipe(pipeline) if is_auto(cls) else pipeline


_one_at_a_time = threading.RLock()
"""transformers changes torch's default precision for the whole process while it makes a model."""


def _load_part(plan: LoadPlan, part: ComponentPlan, sight: Sight) -> Any:
    path = sight.of(part.path)
    if part.method == "pretrained":
        return part.cls.from_pretrained(path, **_dtype_if_taken(part))
    with _one_at_a_time:
        if part.method == "model":
            return _model(plan, part, path)
        if part.method == "part":
            options = _auto_options(part.cls) | _gguf_option(part)
            return part.cls.from_pretrained(path, local_files_only=True, **options)
        return _from_file(plan, part, sight)


def _model(plan: LoadPlan, part: ComponentPlan, path: str) -> Any:
    options: dict[str, Any] = {
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
        **_dtype_option(part),
        **_auto_options(part.cls),
    }
    if part.variant:
        options["variant"] = part.variant
    if part.quantization:
        options["quantization_config"] = config_for(
            part.quantization, is_diffusers=_is_diffusers(part), ref=plan.ref
        )
    if part.method == "gguf":
        options |= _gguf_option(part)
        del options["use_safetensors"]
    model, info = part.cls.from_pretrained(path, **options)
    _check_missing(plan, part, model, info)
    return model


def _gguf_option(part: ComponentPlan) -> dict[str, Any]:
    """Return what makes transformers look into a GGUF file instead of a directory."""
    is_gguf = bool(part.weights) and part.weights[0].lower().endswith(".gguf")
    return {"gguf_file": os.path.basename(part.weights[0])} if is_gguf else {}


def _is_diffusers(part: ComponentPlan) -> bool:
    return kind_of(part.cls) == "diffusers_model"


def _dtype_option(part: ComponentPlan) -> dict[str, Any]:
    if part.dtype:
        return {"dtype": getattr(library("torch"), part.dtype)}
    return {} if _is_diffusers(part) else {"dtype": "auto"}


def _auto_options(cls: Any) -> dict[str, Any]:
    is_theirs = cls.__module__.partition(".")[0] == "transformers"
    return {"trust_remote_code": False} if is_theirs and is_auto(cls) else {}


def _dtype_if_taken(part: ComponentPlan) -> dict[str, Any]:
    """Return the precision for a foreign class, under the name that its method has for it."""
    import inspect

    taken = inspect.signature(part.cls.from_pretrained).parameters
    name = next((name for name in ("dtype", "torch_dtype") if name in taken), None)
    return {name: getattr(library("torch"), part.dtype)} if name and part.dtype else {}


def _from_file(plan: LoadPlan, part: ComponentPlan, sight: Sight) -> Any:
    """Load one checkpoint file, safetensors or GGUF."""
    file = part.weights[0]
    if part.method == "gguf" and not _is_diffusers(part):
        return _model(plan, part, sight.of(part.path))
    options: dict[str, Any] = {"local_files_only": True, **_dtype_option(part)}
    if part.config_path:
        options["config"] = sight.of(part.config_path)
    elif part.config_repo:
        options["config"] = part.config_repo
    if part.method == "gguf":
        diffusers = library("diffusers")
        options["quantization_config"] = diffusers.GGUFQuantizationConfig(
            compute_dtype=options["dtype"]
        )
    try:
        return part.cls.from_single_file(file, **options)
    except OSError as error:
        if part.config_path or error.errno is not None:
            raise
        raise ConfigNeededError(
            f"model {plan.ref!r} is one file without the configuration of its parts: publish it "
            f"beside that of {part.config_repo or 'its pipeline'!r}, or as a folder",
            config_repo=part.config_repo,
            ref=plan.ref,
        ) from error


def _check_missing(plan: LoadPlan, part: ComponentPlan, model: Any, info: Any) -> None:
    """Refuse a model whose weights are of another architecture: it would run, and produce noise.

    A few new ones are normal for transformers (a pooler, a head); diffusers knows of none.
    """
    missing = list(info.get("missing_keys", ())) if isinstance(info, dict) else []
    total = len(model.state_dict()) or 1
    if not missing or (not _is_diffusers(part) and len(missing) * 2 <= total):
        return
    shown = ", ".join(repr(name) for name in sorted(missing)[:5])
    raise MissingComponentsError(
        f"model {plan.ref!r} has no weights for {len(missing)} of {total} tensors of "
        f"{name_of(part.cls)} {part.name!r} ({shown}): it is another architecture than its "
        "configuration says",
        missing=(part.name or "weights",),
        ref=plan.ref,
    )


def _check_type(plan: LoadPlan, value: Any) -> None:
    wanted = plan.annotation
    if not isinstance(wanted, type) or is_auto(wanted) or isinstance(value, wanted):
        return
    raise TypeMismatchError(
        f"model injection type mismatch for {plan.parameter}: expected {name_of(wanted)}, got "
        f"{name_of(type(value))} (model_id={plan.ref})",
        ref=plan.ref,
    )
