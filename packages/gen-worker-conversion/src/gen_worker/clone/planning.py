"""What an import will make of a source: a pure function of what is known of both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.clone.payload import CloneOutput
from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.classify import parse_weight_file
from gen_worker.conversion.convert.cells import precision_of_bits
from gen_worker.conversion.inline import deferred_conversion_requirement
from gen_worker.conversion.vocabulary import (
    CONCRETE_DTYPES,
    flavor_of,
    is_fuzzy_bitwidth,
    resolve_fuzzy_to_concrete,
)
from gen_worker.conversion.writer.shards import MAX_SAFETENSORS_SHARD_BYTES
from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gen_worker.conversion.convert.cells import Form

__all__ = [
    "CloneFlavor",
    "ClonePlan",
    "FailedFlavor",
    "SourceFacts",
    "SourceIdentity",
    "plan_clone",
    "recipe_of",
]

MIN_QUANTIZED_BYTES = 100 << 20
_DEFAULTED = ("diffusers", "transformers", "aio_singlefile")
_DIFFUSERS = ("diffusers", "aio_singlefile")
_KINDS = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "gguf": "gguf",
    "peft_canonical": "peft",
    "native_lora": "diffusers-lora",
    "sentence_transformers": "sentence-transformers",
    "aio_singlefile": "aio_singlefile",
}
_LAYOUTS = {
    "aio_singlefile": "singlefile",
    "gguf": "singlefile",
    "components": "diffusers",
    "peft_canonical": "peft",
}
_FLOATS = {"f32": "fp32", "f16": "fp16"}


class SourceIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which model is imported, to the bit."""

    provider: str
    ref: str
    """As the hub's lineage names it: `hf:<repo>` or `civitai:<id>`."""
    revision: str
    """A commit, or the digest of the manifest."""

    @property
    def name(self) -> str:
        """Return what a folder or file that holds it is called."""
        return re.sub(r"[^\w.-]", "-", self.ref.rpartition("/")[2]).lstrip(".-") or "model"


class SourceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the files that were fetched are."""

    strategy: str
    runtime_library: str
    dtype: str = ""
    """That all weights share; empty when they do not."""
    sizes: Mapping[str, int]
    """Of the files, by path."""
    components: Mapping[str, int] = {}
    """Bytes of weights, by folder."""


class CloneFlavor(msgspec.Struct, frozen=True, kw_only=True):
    """One flavor to make."""

    label: str
    dtype: str
    file_layout: str
    file_type: str
    is_passthrough: bool
    """Whether the source's own bytes are published."""
    split_files: tuple[str, ...] = ()
    """Of these, too large for one file, by path."""
    components: tuple[str, ...] | None = None
    """That a method of quantization takes; None leaves it to the method."""
    changes_layout: bool = False


class FailedFlavor(msgspec.Struct, frozen=True, kw_only=True):
    """One flavor that is not made, and why."""

    spec_label: str
    dtype: str
    file_type: str
    reason: str
    deferred_requirement: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        told = msgspec.structs.asdict(self)
        if self.deferred_requirement is None:
            del told["deferred_requirement"]
        return told


class ClonePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a source."""

    identity: SourceIdentity
    flavors: tuple[CloneFlavor, ...]
    failed: tuple[FailedFlavor, ...] = ()


def recipe_of(request: msgspec.Struct) -> str:
    """Return the name of everything that was asked for: equal for equal requests."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()


def plan_clone(
    identity: SourceIdentity,
    facts: SourceFacts,
    outputs: Sequence[CloneOutput],
    *,
    available: Collection[str],
    quantize_components: Sequence[str] = ("transformer", "text_encoder"),
    max_file_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
) -> ClonePlan:
    """Decide what is published as it is, what is converted, and what cannot be made.

    Args:
        identity: The source.
        facts: What its files are.
        outputs: Asked for; without any, bf16 of what can be cast and the rest as it is.
        available: Precisions that can be made here.
        quantize_components: Beginnings of the names of components that are quantised; `all`.
        max_file_bytes: Files of weights above it are split.
    """
    as_it_is = _own(facts, max_file_bytes)
    wanted = list(outputs)
    if not wanted and facts.strategy in _DEFAULTED:
        wanted = [CloneOutput(dtype="bf16")]
    flavors: dict[str, CloneFlavor] = {}
    failed: list[FailedFlavor] = []
    if facts.strategy not in _DIFFUSERS:
        flavors[as_it_is.label] = as_it_is
    for output in wanted:
        made = _flavor(facts, output, as_it_is, available, quantize_components)
        if isinstance(made, FailedFlavor):
            failed.append(made)
        else:
            flavors.setdefault(made.label, made)
    return ClonePlan(identity=identity, flavors=tuple(flavors.values()), failed=tuple(failed))


def _own(facts: SourceFacts, max_file_bytes: int) -> CloneFlavor:
    """Return the source as a flavor."""
    is_gguf = facts.strategy == "gguf"
    dtype = facts.dtype or "source"
    large = [
        path
        for path, size in sorted(facts.sizes.items())
        if size > max_file_bytes and _is_alone(path)
    ]
    return CloneFlavor(
        label=flavor_of(dtype),
        dtype=dtype,
        file_layout=_layout(facts),
        file_type="gguf" if is_gguf else "safetensors",
        is_passthrough=True,
        split_files=tuple(large),
    )


def _is_alone(path: str) -> bool:
    """Tell whether a file is all the weights of its component: shards have an index already."""
    info = parse_weight_file(path)
    return info is not None and info.extension == ".safetensors" and not info.is_sharded


def _flavor(
    facts: SourceFacts,
    output: CloneOutput,
    as_it_is: CloneFlavor,
    available: Collection[str],
    quantize_components: Sequence[str],
) -> CloneFlavor | FailedFlavor:
    try:
        dtype = _resolved(facts, output, available)
    except ValidationError as error:
        return _failed(output, output.dtype, str(error))
    is_gguf = output.file_type == "gguf"
    layout = output.file_layout if facts.strategy in _DIFFUSERS else ""
    layout = "singlefile" if is_gguf else layout or as_it_is.file_layout
    is_same = (dtype, layout, output.file_type) == (
        as_it_is.dtype,
        as_it_is.file_layout,
        as_it_is.file_type,
    )
    if is_same:
        return as_it_is
    if output.file_type in ("flashpack", "bin"):
        reason = f"weights are not published as {output.file_type}: ask for safetensors or gguf"
        return _failed(output, dtype, reason)
    requirement = deferred_conversion_requirement(dtype)
    if requirement is not None:
        reason = "it needs calibration data: run a quantization job with a dataset"
        return _failed(output, dtype, reason, requirement.as_dict())
    if facts.strategy == "gguf":
        return _failed(output, dtype, "the source is GGUF already: import its original")
    if facts.strategy == "components":
        reason = "its components have no configurations: import a repository that has them"
        return _failed(output, dtype, reason)
    is_quantized = not is_gguf and dtype not in CAST_DTYPES
    return CloneFlavor(
        label=_gguf_label(dtype) if is_gguf else _label(dtype, layout, as_it_is.file_layout),
        dtype=dtype,
        file_layout=layout,
        file_type=output.file_type,
        is_passthrough=False,
        components=_quantized(facts, quantize_components) if is_quantized else None,
        changes_layout=not is_gguf and layout != as_it_is.file_layout,
    )


def _resolved(facts: SourceFacts, output: CloneOutput, available: Collection[str]) -> str:
    """Return the precision that an output comes to: one that can be made, if there is a choice."""
    is_gguf = output.file_type == "gguf"
    if not is_fuzzy_bitwidth(output.dtype):
        return output.dtype if is_gguf else _FLOATS.get(output.dtype, output.dtype)
    kind = "gguf" if is_gguf else _KINDS.get(facts.strategy, "transformers")
    form = _form(facts.strategy, output.file_layout)
    try:
        return precision_of_bits(
            output.dtype, kind, form=form, available=available, own=facts.dtype
        )
    except ValidationError:
        with_data = {one for one in CONCRETE_DTYPES if deferred_conversion_requirement(one)}
        with suppress(ValidationError):  # a job of its own makes it
            return resolve_fuzzy_to_concrete(
                output.dtype, source_kind=kind, available_dtypes=with_data
            )
        raise


def _form(strategy: str, layout: str) -> Form:
    """Return what a source is for a conversion, and what it becomes."""
    if strategy == "diffusers":
        return "pipeline to file" if layout == "singlefile" else "pipeline"
    if strategy == "aio_singlefile":
        return "file to pipeline" if layout == "diffusers" else "file"
    return "gguf file" if strategy == "gguf" else "folder"


def _quantized(facts: SourceFacts, wanted: Sequence[str]) -> tuple[str, ...] | None:
    """Return the components to quantise; never none of them under a quantised name."""
    named = {name: size for name, size in facts.components.items() if name}
    if not named or "all" in wanted:
        return None
    starts = tuple(wanted) + (("unet",) if "transformer" in wanted else ())
    chosen = {name: size for name, size in named.items() if name.startswith(starts)}
    large = tuple(name for name, size in chosen.items() if size >= MIN_QUANTIZED_BYTES)
    return large or tuple(sorted(chosen, key=lambda name: -chosen[name])[:1]) or None


def _layout(facts: SourceFacts) -> str:
    return _LAYOUTS.get(facts.strategy, facts.strategy)


def _label(dtype: str, layout: str, own_layout: str) -> str:
    name = flavor_of(dtype)
    return name if layout == own_layout else f"{name}-{layout}"


def _gguf_label(dtype: str) -> str:
    name = flavor_of(dtype)
    return f"gguf-{name}" if dtype in (*CAST_DTYPES, *_FLOATS) else name


def _failed(
    output: CloneOutput, dtype: str, reason: str, requirement: dict[str, Any] | None = None
) -> FailedFlavor:
    return FailedFlavor(
        spec_label=output.label,
        dtype=dtype,
        file_type=output.file_type,
        reason=reason,
        deferred_requirement=requirement,
    )
