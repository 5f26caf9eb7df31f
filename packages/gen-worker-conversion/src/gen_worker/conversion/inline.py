"""Conversions that an import does on the way: no calibration, nothing that has to be set up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.vocabulary import GGUF_TYPES, normalize_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.quantize.methods import Method, MethodElsewhere

__all__ = [
    "DeferredConversionRequirement",
    "InlineConversionNotPossible",
    "InlineConversionResult",
    "deferred_conversion_requirement",
    "is_calibration_required",
    "is_inline_supported",
    "run_inline_conversion",
]

_FILE_TYPES = ("safetensors", "gguf")


class DeferredConversionRequirement(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to make a precision that an import does not make."""

    kind: str
    target_dtype: str
    scheme: str
    requires_calibration: bool
    requires_gpu: bool
    runtime: str

    def as_dict(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


class InlineConversionNotPossible(ConversionInputError):
    """A precision is not made on the way; `reason` says why."""

    def __init__(
        self,
        reason: str,
        *,
        target_dtype: str,
        deferred_requirement: DeferredConversionRequirement | None = None,
    ) -> None:
        """Keep what it would take.

        Args:
            reason: In words.
            target_dtype: What was asked for.
            deferred_requirement: Of a job of its own; None where no job would do.
        """
        super().__init__(f"{target_dtype!r} is not made here: {reason}", step="convert")
        self.reason = reason
        self.target_dtype = target_dtype
        self.deferred_requirement = deferred_requirement

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.reason, self.target_dtype, self.deferred_requirement)


class InlineConversionResult(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one converted component."""

    output_paths: tuple[str, ...]
    """Of the weights."""
    index_path: str | None
    target_dtype: str
    target_file_type: str
    attributes: dict[str, Any]
    """What is true of the output, as a flavor tells it."""
    summary: dict[str, Any]


def is_calibration_required(dtype: str) -> bool:
    """Tell whether a precision is only made with data."""
    return _method_with_data(normalize_dtype(dtype)) is not None


def is_inline_supported(dtype: str, *, target_file_type: str = "safetensors") -> bool:
    """Tell whether a precision is made on the way, of a source that has plain weights."""
    from gen_worker.conversion.convert.planning import available_tokens

    token = normalize_dtype(dtype)
    if target_file_type not in _FILE_TYPES or is_calibration_required(token):
        return False
    if target_file_type == "gguf" or token in GGUF_TYPES:
        return bool({token, f"gguf:{token}"} & (available_tokens() - set(CAST_DTYPES)))
    return token in available_tokens()


def deferred_conversion_requirement(dtype: str) -> DeferredConversionRequirement | None:
    """Return what a job of its own needs for a precision; None when none is needed."""
    token = normalize_dtype(dtype)
    method = _method_with_data(token)
    if method is None:
        return None
    return DeferredConversionRequirement(
        kind="calibrated_quantization",
        target_dtype=token,
        scheme=token.replace(":", "_"),
        requires_calibration=True,
        requires_gpu=getattr(method, "requires_gpu", False),
        runtime=getattr(method, "runtime", "gen-worker-conversion"),
    )


def _method_with_data(token: str) -> Method | MethodElsewhere | None:
    """Return the method of a name, here or elsewhere, that cannot do without data."""
    from gen_worker.conversion.quantize.methods import METHODS, OTHERS_METHODS

    every: tuple[Method | MethodElsewhere, ...] = (*METHODS.values(), *OTHERS_METHODS.values())
    found = (one for one in every if token in (one.name, *getattr(one, "aliases", ())))
    return next((one for one in found if one.calibration == "required"), None)


def run_inline_conversion(
    *,
    source_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    target_dtype: str,
    target_file_type: str = "safetensors",
    component_name: str = "",
    shard_prefix: str = "model",
    source_repo_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    token: CancelToken | None = None,
) -> InlineConversionResult:
    """Convert one component, or a whole model where that is what a method takes; blocks.

    Args:
        source_path: A file of weights, an index, or the directory of a component.
        out_dir: Made when absent.
        target_dtype: Such as `bf16`.
        target_file_type: `safetensors` or `gguf`.
        component_name: Of a source with several: the one that a method converts; a cast takes what
            is at `source_path`.
        shard_prefix: Of the files that a cast writes, as loaders look for them.
        source_repo_dir: The model that `source_path` is of: other methods than casts read its
            configuration, too.
        progress: Called with the bytes written and to write.
        token: Ends the work between two slabs.

    Raises:
        ConversionInputError: Nothing is asked for.
        InlineConversionNotPossible: It is not made here.
        ConversionError: The output could not be written.
    """
    dtype = normalize_dtype(target_dtype)
    if not dtype:
        raise ConversionInputError("target_dtype is empty: give one such as 'bf16'")
    if is_calibration_required(dtype):
        raise InlineConversionNotPossible(
            "it needs calibration data: run a quantization job with a dataset",
            target_dtype=dtype,
            deferred_requirement=deferred_conversion_requirement(dtype),
        )
    if dtype in CAST_DTYPES and target_file_type == "safetensors":
        return _cast(source_path, out_dir, dtype, shard_prefix, progress, token)
    return _planned(
        os.fspath(source_repo_dir or source_path),
        os.fspath(out_dir),
        f"gguf:{dtype}" if target_file_type == "gguf" else dtype,
        component_name,
        progress,
        token,
    )


def _cast(
    source_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    dtype: str,
    prefix: str,
    progress: Callable[[int, int], None] | None,
    token: CancelToken | None,
) -> InlineConversionResult:
    from gen_worker.conversion.streaming import streaming_dtype_cast

    facts = streaming_dtype_cast(
        source_path,
        out_dir,
        target_dtype=dtype,
        shard_prefix=prefix,
        progress=progress,
        token=token,
    )
    counts = {name: facts[name] for name in ("tensor_count", "converted_count")}
    index = facts["index_path"]
    return InlineConversionResult(
        output_paths=tuple(os.fspath(path) for path in facts["output_paths"]),
        index_path=None if index is None else os.fspath(index),
        target_dtype=dtype,
        target_file_type="safetensors",
        attributes={
            "dtype": dtype,
            "file_type": "safetensors",
            "conversion_strategy": "inline_cast",
            **counts,
        },
        summary={**counts, "nonfinite": facts["nonfinite"]},
    )


def _planned(
    source: str,
    out_dir: str,
    target: str,
    component: str,
    progress: Callable[[int, int], None] | None,
    token: CancelToken | None,
) -> InlineConversionResult:
    from gen_worker.conversion.convert import plan_conversion, run_conversion

    plan = plan_conversion(
        source, [target], out=out_dir, components=[component] if component else None
    )
    if plan.refusals:
        raise InlineConversionNotPossible(
            "; ".join(one.reason for one in plan.refusals), target_dtype=target
        )
    result = run_conversion(
        plan,
        progress=None if progress is None else lambda x: progress(x.done_bytes, x.total_bytes),
        token=token,
    )
    (flavor,) = result.flavors
    root = Path(flavor.path)
    (files,) = result.files.values()
    paths = tuple(os.fspath(root / file.path) for file in files)
    index = next((path for path in paths if path.endswith(".index.json")), None)
    return InlineConversionResult(
        output_paths=tuple(path for path in paths if path != index),
        index_path=index,
        target_dtype=target.removeprefix("gguf:"),
        target_file_type="gguf" if target.startswith("gguf:") else "safetensors",
        attributes=dict(flavor.attributes),
        summary={"nonfinite": dict(result.nonfinite), "resumed": result.resumed},
    )


def _again(
    reason: str, target_dtype: str, requirement: DeferredConversionRequirement | None
) -> InlineConversionNotPossible:
    return InlineConversionNotPossible(
        reason, target_dtype=target_dtype, deferred_requirement=requirement
    )
