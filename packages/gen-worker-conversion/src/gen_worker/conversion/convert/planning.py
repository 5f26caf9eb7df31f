"""The plan of a conversion: what every output will be, what it takes, and what is refused."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.convert.calibrated import described, unused_data
from gen_worker.conversion.convert.cells import form_of, precision_of_bits
from gen_worker.conversion.convert.estimates import memory_bytes, seconds_of, whole_bytes
from gen_worker.conversion.convert.fitting import unfit_files
from gen_worker.conversion.convert.inspecting import dominant_dtype, inspect_model
from gen_worker.conversion.convert.notices import notices_in
from gen_worker.conversion.convert.outputs import outputs_of
from gen_worker.conversion.convert.staging import finished_bytes, is_half_published, name_of
from gen_worker.conversion.convert.targets import SOURCE_KINDS, Target, resolved_targets
from gen_worker.conversion.convert.values import (
    ComponentPlan,
    ConversionPlan,
    ConversionRequest,
    FlavorPlan,
    GgufOptions,
    Kept,
    Refusal,
)
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.provenance import proof_files
from gen_worker.conversion.side_files import is_weights, json_bytes
from gen_worker.conversion.source import Source
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES
from gen_worker.errors import WorkerError
from gen_worker.models.formats.plain_files import files_below

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.conversion.convert.inspecting import ModelFacts
    from gen_worker.conversion.convert.outputs import Output
    from gen_worker.conversion.convert.values import MergedLora, ModelMerge, OutputLayout
    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.quantize.calibration_text import CalibrationData

__all__ = ["plan_conversion"]


def plan_conversion(
    source: str | os.PathLike[str],
    targets: Sequence[str],
    *,
    out: str | os.PathLike[str] | None = None,
    keep_in: str | os.PathLike[str] | None = None,
    layout: OutputLayout | None = None,
    components: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    variant: str | None = None,
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    calibration: CalibrationData | str | os.PathLike[str] | None = None,
    skip_calibration: bool = False,
    gguf: GgufOptions | None = None,
    merge: ModelMerge | None = None,
    loras: Sequence[MergedLora] = (),
    configs: str | os.PathLike[str] | None = None,
) -> ConversionPlan:
    """Say what a conversion will do, and in `refusals` all that it cannot; reads headers only.

    Args:
        source: A directory, or a file of weights.
        targets: Such as `bf16`, `fp8`, `gguf:q4_k_m` or `4bit`.
        out: Directory that will hold the output, or one folder for each of several.
        keep_in: Instead of `out`, a directory for outputs on their way elsewhere. In it they have a
            folder that is named by everything that decides about their bytes, and what an earlier
            run finished there counts.
        layout: None keeps the source's.
        components: Those to convert; by default all that the method is meant for. The others are
            copied as they are.
        keep: Patterns, as of file names, of tensors that stay in their own precision.
        variant: Which of several precisions of the source to read.
        max_shard_bytes: Of tensors in one file.
        calibration: Text for the methods that take it: `calibration_data(...)`, or what that is
            given. With it `fp8` and `int8` round activations, too, by the scales that it shows.
        skip_calibration: Calibrate only what cannot be made without.
        gguf: What GGUF files alone have; others pass over it.
        merge: Models that the source is merged with first.
        loras: Merged into the source, or into what the merge makes.
        configs: Of a file that becomes a pipeline: the folder of one of the same model, which gives
            configurations, tokenizers, and components that are not in the file.

    Raises:
        ConversionInputError: There is no source, or no such text.
    """
    if (out is None) == (keep_in is None):
        raise TypeError("give either out or keep_in")
    facts = inspect_model(source, variant=variant)
    wanted, unknown = _resolved(facts, targets, layout, is_calibrated=calibration is not None)
    request = ConversionRequest(
        source=facts.path,
        targets=tuple(target.name for target in wanted),
        out="" if out is None else os.path.abspath(out),
        layout=layout,
        components=tuple(components) if components is not None else None,
        keep=tuple(keep),
        variant=variant,
        max_shard_bytes=max_shard_bytes,
        calibration=described(calibration),
        skip_calibration=skip_calibration,
        gguf=gguf or GgufOptions(),
        merge=merge,
        loras=tuple(loras),
        configs="" if configs is None else os.path.abspath(configs),
    )
    if keep_in is not None:
        first = wanted[0].flavor if wanted else "nothing"
        place = os.path.join(os.path.abspath(keep_in), f"{first}-{name_of(request)}")
        request = msgspec.structs.replace(request, out=place)
    is_finished = _is_taken(request.out) and (keep_in is not None or is_half_published(request))
    refusals = [
        *(Refusal(target=text, reason=why) for text, why in unknown),
        *(Refusal(target="", reason=why) for why in facts.refusals),
        *unfit_files(request),
        *unused_data(request, wanted),
        *_unused_gguf(request, wanted),
        *_asked(request, targets, is_finished),
    ]
    return _planned(request, facts, wanted, refusals, is_finished)


def _resolved(
    facts: ModelFacts, targets: Sequence[str], layout: OutputLayout | None, *, is_calibrated: bool
) -> tuple[tuple[Target, ...], tuple[tuple[str, str], ...]]:
    """Return the outputs that are asked for, and what means none, with the reason."""
    available = available_tokens(is_calibrated=is_calibrated)
    form = form_of(Source(facts.path), Target("bf16", False), layout)
    return resolved_targets(
        targets,
        source_kind=SOURCE_KINDS.get(facts.layout, "transformers"),
        available=available,
        of_bits=partial(precision_of_bits, form=form, available=available),
    )


def _planned(
    request: ConversionRequest,
    facts: ModelFacts,
    wanted: Sequence[Target],
    refusals: Sequence[Refusal],
    is_finished: bool,
) -> ConversionPlan:
    """Return the plan; `refusals` are those that are known before any output is looked at."""
    flavors, impossible = _flavors(request, wanted)
    size = sum(flavor.size_bytes for flavor in flavors)
    free = shutil.disk_usage(_existing(request.out)).free
    every = [*refusals, *(one for one in impossible if one.reason not in facts.refusals)]
    every += [] if is_finished else _no_room(request.out, size, free)
    return ConversionPlan(
        request=request,
        layout=facts.layout,
        family=facts.family,
        source_bytes=facts.size_bytes,
        flavors=tuple(flavors),
        size_bytes=size,
        free_bytes=free,
        memory_bytes=memory_bytes(part for one in flavors for part in one.components),
        seconds=sum(flavor.seconds for flavor in flavors),
        refusals=tuple(dict.fromkeys(every)),
        is_finished=is_finished,
    )


def _flavors(
    request: ConversionRequest, wanted: Sequence[Target]
) -> tuple[list[FlavorPlan], list[Refusal]]:
    """Return what can be made, and what cannot."""
    flavors: list[FlavorPlan] = []
    refusals: list[Refusal] = []
    for target in wanted:
        path = request.out if len(wanted) == 1 else os.path.join(request.out, target.flavor)
        try:
            flavors.append(_flavor(request, target, path))
        except (WorkerError, OSError) as error:
            refusals.append(Refusal(target=target.name, reason=str(error)))
    return flavors, refusals


def _no_room(place: str, size_bytes: int, free_bytes: int) -> Iterator[Refusal]:
    missing = size_bytes - finished_bytes(place)
    if missing > free_bytes:
        reason = f"{place!r} has room for {free_bytes} bytes and the outputs take {missing}"
        yield Refusal(target="", reason=f"{reason}: free some")


def available_tokens(*, is_calibrated: bool = False) -> frozenset[str]:
    """Return the precisions that something here makes, with data to calibrate with or without."""
    from gen_worker.conversion.gguf.types import WRITTEN
    from gen_worker.conversion.quantize.methods import METHODS

    made = [one for one in METHODS.values() if is_calibrated or one.calibration != "required"]
    named = (name for method in made for name in (method.name, *method.aliases))
    return frozenset((*CAST_DTYPES, *WRITTEN, *named))


def _asked(
    request: ConversionRequest, targets: Sequence[str], is_finished: bool
) -> Iterator[Refusal]:
    """Yield what is wrong with a request, whatever the target."""
    if not targets:
        yield Refusal(target="", reason="nothing is asked for: give a precision such as bf16")
    out, source = request.out, request.source
    if out == source or out.startswith(source + os.sep):
        reason = f"{out!r} is inside the source, which stays as it is: choose another place"
        yield Refusal(target="", reason=reason)
    elif _is_taken(out) and not is_finished:
        reason = f"{out!r} exists already: choose another place, or remove it"
        yield Refusal(target="", reason=reason)
    elif not os.path.isdir(parent := _existing(out)):
        reason = f"{parent!r} is no directory: nothing can be put into it, choose another place"
        yield Refusal(target="", reason=reason)
    elif not os.access(parent, os.W_OK | os.X_OK):
        reason = f"{parent!r} may not be written to: choose another place, or get the right to it"
        yield Refusal(target="", reason=reason)


def _unused_gguf(request: ConversionRequest, targets: Sequence[Target]) -> Iterator[Refusal]:
    """Refuse what GGUF files alone have where none is asked for, such as an importance matrix."""
    given = request.gguf
    named = [
        what
        for what, value in (
            ("an importance matrix", given.importance),
            ("metadata", given.metadata),
            ("a base model", given.base),
        )
        if value
    ]
    if named and targets and not any(target.is_gguf for target in targets):
        reason = f"{' and '.join(named)}: only GGUF files have it, and none is asked for"
        yield Refusal(target="", reason=f"{reason}: leave it out, or ask for one")


def _flavor(request: ConversionRequest, target: Target, path: str) -> FlavorPlan:
    outputs = outputs_of(request, target)
    parts = tuple(_component(target, output) for output in outputs)
    _check_components(request, outputs)
    _check_patterns(request, outputs)
    others = _other_bytes(request, outputs)
    return FlavorPlan(
        token=target.name,
        flavor=target.flavor,
        path=path,
        components=parts,
        other_bytes=others,
        size_bytes=others + sum(part.size_bytes for part in parts),
        seconds=sum(seconds_of(part) for part in parts),
        attributes=next((dict(one.attributes) for one in outputs if one.attributes), {}),
        notes=tuple(note for one in outputs for note in one.notes),
    )


def _check_components(request: ConversionRequest, outputs: Sequence[Output]) -> None:
    there = {output.component for output in outputs} - {""}
    for name in request.components or ():
        if name not in there and not outputs[0].is_whole_model:
            known = ", ".join(map(repr, sorted(there))) or "none: it is in one folder"
            raise ConversionInputError(
                f"the source has no component {name!r} with weights; it has {known}"
            )


def _check_patterns(request: ConversionRequest, outputs: Sequence[Output]) -> None:
    """Refuse a pattern that names nothing: a misspelt one would lose what it is there to keep."""
    for pattern in request.keep:
        names = [name for output in outputs for name in output.source]
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConversionInputError(
                f"the pattern {pattern!r} names no tensor: they are called such as "
                f"{next(iter(names), 'nothing')!r}"
            )


def _component(target: Target, output: Output) -> ComponentPlan:
    work = output.calibration
    stored = output.source if output.stored is None else output.stored
    is_kept = output.action in ("copy", "merge")
    return ComponentPlan(
        name=output.component,
        action=output.action,
        source_dtype=dominant_dtype(_sizes(stored)),
        dtype=dominant_dtype(_sizes(output.made)) if is_kept else target.token,
        tensors=len(stored),
        changed=sum(output.made.get(name) is not tensor for name, tensor in stored.items()),
        merged=sum(stored.get(name) is not tensor for name, tensor in output.source.items()),
        source_bytes=_size(stored),
        size_bytes=_size(output.made),
        memory_bytes=max(whole_bytes(output.made.values()), work.memory_bytes if work else 0),
        operations=work.operations if work else 0.0,
        kept=_kept(output),
    )


def _kept(output: Output) -> tuple[Kept, ...]:
    groups: dict[str, list[str]] = {}
    for name, reason in output.reasons.items():
        groups.setdefault(reason, []).append(name)
    return tuple(
        Kept(
            reason=reason,
            tensors=len(names),
            size_bytes=sum(output.made[name].size_bytes for name in names),
            example=names[0],
        )
        for reason, names in groups.items()
    )


def _sizes(checkpoint: Checkpoint) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in checkpoint.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return sizes


def _size(checkpoint: Checkpoint) -> int:
    return sum(tensor.size_bytes for tensor in checkpoint.values())


def _other_bytes(request: ConversionRequest, outputs: Sequence[Output]) -> int:
    """Return the size of what there will be beside the weights."""
    first, source = outputs[0], request.source
    total = sum(len(json_bytes(content)) for content in first.configs.values())
    if request.configs:
        made = {output.component for output in outputs}
        return total + sum(
            os.path.getsize(path)
            for path, name in files_below(request.configs)
            if not (name.partition("/")[0] in made and is_weights(name))
            and name not in first.configs
        )
    if os.path.isfile(source):
        return total
    if first.is_whole_model:
        notices = notices_in(source)
        return total + sum(os.path.getsize(os.path.join(source, name)) for name in notices)
    ours = {os.path.join(source, name) for name in proof_files(source)}
    for parent, directories, names in os.walk(source):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            is_side_file = not name.startswith(".") and not is_weights(name)
            if is_side_file and os.path.join(parent, name) not in ours:
                total += os.path.getsize(os.path.join(parent, name))
    return total


def _is_taken(place: str) -> bool:
    return os.path.exists(place) and (not os.path.isdir(place) or bool(os.listdir(place)))


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
