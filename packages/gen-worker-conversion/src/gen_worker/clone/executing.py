"""A plan carried out: each flavor in a directory of its own, finished ones not made again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.clone.planning import FailedFlavor
from gen_worker.clone.size_facts import compute_size_facts
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.conversion.streaming import shard_safetensors_by_offset
from gen_worker.conversion.writer.shards import MAX_SAFETENSORS_SHARD_BYTES
from gen_worker.models.formats.plain_files import files_below

if TYPE_CHECKING:
    from typing import Any

    from gen_worker.cancel import CancelToken
    from gen_worker.clone.planning import CloneFlavor, ClonePlan
    from gen_worker.clone.progress import CloneProgress

__all__ = ["MadeFlavor", "make_flavors"]


class MadeFlavor(NamedTuple):
    """One flavor whose files are here."""

    flavor: CloneFlavor
    directory: str
    size_facts: dict[str, Any]
    """Of this flavor, not of its source."""


def make_flavors(
    plan: ClonePlan,
    source: str,
    work: str,
    *,
    progress: CloneProgress,
    token: CancelToken,
    max_file_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
) -> tuple[list[MadeFlavor], list[FailedFlavor]]:
    """Make the flavors of a plan; blocks. What an earlier run finished is taken as it is.

    Args:
        plan: What to make.
        source: The fetched files; they stay as they are.
        work: Where flavors are made; a directory there is a finished flavor.
        progress: Told of stages.
        token: Ends the work.
        max_file_bytes: Files of weights above it are split.

    Returns:
        What was made, and what turned out not to be possible.

    Raises:
        ConversionError: An output could not be written.
        DamagedFileError: The source is no sound model.
        CanceledError: The token was canceled.
    """
    made: list[MadeFlavor] = []
    failed = list(plan.failed)
    for one in failed:
        progress.stage("clone.save_format.skipped", 0.6, flavor=one.spec_label, reason=one.reason)
    for number, flavor in enumerate(plan.flavors):
        token.raise_if_canceled()
        share = progress.share(number + 1, len(plan.flavors))
        place = os.path.join(work, flavor.label)
        if flavor.is_passthrough:
            place = _own(flavor, source, place, max_file_bytes)
        else:
            reason = _converted(flavor, source, place, progress, number, plan, token)
            if reason:
                failed.append(_failed(flavor, reason))
                progress.stage(
                    "clone.save_format.failed", share, flavor=flavor.label, reason=reason
                )
                continue
        made.append(MadeFlavor(flavor, place, compute_size_facts(place)))
        progress.stage("clone.save_format.completed", share, flavor=flavor.label)
    return made, failed


def _own(flavor: CloneFlavor, source: str, place: str, max_file_bytes: int) -> str:
    """Return a directory with the source's own bytes; files that are too large are split."""
    if not flavor.split_files:
        return source
    others = {path: real for real, path in files_below(source) if path not in flavor.split_files}
    place_files(others, place)
    for path in flavor.split_files:
        folder, _, name = path.rpartition("/")
        target = os.path.join(place, *folder.split("/")) if folder else place
        shard_safetensors_by_offset(
            os.path.join(source, *path.split("/")),
            target,
            max_shard_bytes=max_file_bytes,
            shard_prefix=name.removesuffix(".safetensors"),
        )
    return place


def _converted(
    flavor: CloneFlavor,
    source: str,
    place: str,
    progress: CloneProgress,
    number: int,
    plan: ClonePlan,
    token: CancelToken,
) -> str:
    """Make a flavor, unless an earlier run did; return why it cannot be made, or nothing."""
    from gen_worker.conversion.convert import plan_conversion, run_conversion

    if os.path.isdir(place) and os.listdir(place):
        return ""  # conversions appear whole or not at all
    layout = flavor.file_layout if flavor.changes_layout else None
    conversion = plan_conversion(
        source,
        [f"gguf:{flavor.dtype}" if flavor.file_type == "gguf" else flavor.dtype],
        out=place,
        layout="singlefile" if layout == "singlefile" else "diffusers" if layout else None,
        components=flavor.components,
    )
    if conversion.refusals:
        return "; ".join(one.reason for one in conversion.refusals)
    has_folders = any(part.name for one in conversion.flavors for part in one.components)
    if flavor.changes_layout and has_folders != (layout == "diffusers"):
        return f"{conversion.layout} is not turned into {layout} here: keep the source's layout"
    watch = progress.converting(number, len(plan.flavors))
    name = "clone.repackage" if flavor.changes_layout else "clone.save_format"
    if flavor.changes_layout:
        progress.stage(f"{name}.started", 0.9, flavor=flavor.label)
    run_conversion(
        conversion,
        progress=lambda state: watch(state.done_bytes, state.total_bytes),
        token=token,
    )
    if flavor.changes_layout:
        progress.stage(f"{name}.completed", 0.94, flavor=flavor.label)
    return ""


def _failed(flavor: CloneFlavor, reason: str) -> FailedFlavor:
    parts = (flavor.dtype.replace(":", "-"), flavor.file_layout, flavor.file_type)
    return FailedFlavor(
        spec_label="-".join(parts), dtype=flavor.dtype, file_type=flavor.file_type, reason=reason
    )
