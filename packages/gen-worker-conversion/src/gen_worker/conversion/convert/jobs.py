"""A whole conversion within a call: planned, made, sent while it is made, and proven."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from gen_worker.context.lineage import parent_of
from gen_worker.conversion.convert.planning import plan_conversion
from gen_worker.conversion.convert.proof import prove_outputs
from gen_worker.conversion.convert.running import run_conversion
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.conversion.source import Source
from gen_worker.models.formats.plain_files import files_below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.context import ConversionContext
    from gen_worker.context.lineage import Parent
    from gen_worker.conversion.convert.values import ConversionPlan, Progress
    from gen_worker.conversion.verify import Limits, QualityGate
    from gen_worker.types import ProducedFlavor

__all__ = ["produce_flavors"]


def produce_flavors(
    ctx: ConversionContext,
    source: Source | str | os.PathLike[str],
    targets: Sequence[str],
    *,
    limits: Limits | None = None,
    gate: QualityGate | None = None,
    **options: Any,
) -> list[ProducedFlavor]:
    """Convert a source and return what a function returns; blocks.

    What stays in high precision is logged. Files are sent while later ones are made, every output
    is verified, and its provenance and model card are published with it. A job that is run again
    after a kill goes on at the file it was at.

    Args:
        ctx: Of the call; its cancel ends the work between two slabs.
        source: The function's `source`.
        targets: As of `plan_conversion`.
        limits: What is not allowed of an output.
        gate: Compares what the source and each output give for the same inputs.
        **options: Others of `plan_conversion`, without a place.

    Raises:
        RefusedPlanError: It cannot be made; names everything that is in the way.
        VerificationError: An output is not what was planned.
        CanceledError: The call was canceled.
        Exception: What `run_conversion` raises.
    """
    parent = parent_of(ctx.source, ctx.source_path)
    path = os.fspath(source.path if isinstance(source, Source) else source)
    place = ctx.checkpoint_dir(key="convert")
    plan = plan_conversion(_kept(ctx, path, parent), targets, keep_in=place, **options)
    _log_kept(ctx, plan)

    def report(one: Progress) -> None:
        ctx.progress(one.done_bytes / max(one.total_bytes, 1), stage=one.flavor)

    result = run_conversion(
        plan, progress=report, on_file=ctx.publish_early, token=ctx.cancel_token
    )
    proven = prove_outputs(
        plan,
        result,
        source_ref=_ref_of(ctx, path),
        source_revision=parent.checkpoint_id or "",
        limits=limits,
        gate=gate,
        token=ctx.cancel_token,
    )
    return [one.produced for one in proven]


def _ref_of(ctx: ConversionContext, path: str) -> str:
    """Return what others know the source by; of a folder of somebody's own, its name."""
    ref = str(ctx.source.get("ref") or "")
    return os.path.basename(path) if not ref or os.path.exists(ref) else ref


def _kept(ctx: ConversionContext, path: str, parent: Parent) -> str:
    """Return where the job's source stays the same files, however often the job is run.

    A source that is fetched anew is as new to a journal, which goes by paths and times.
    """
    if path != ctx.source_path or not parent.checkpoint_id or os.path.isfile(path):
        return path
    place = ctx.checkpoint_dir(key=f"source-{parent.checkpoint_id}")
    kept = os.path.join(place, "files")
    if not os.path.isdir(kept):
        draft = tempfile.mkdtemp(dir=place)
        place_files({name: real for real, name in files_below(path)}, draft)
        os.replace(draft, kept)
    return kept


def _log_kept(ctx: ConversionContext, plan: ConversionPlan) -> None:
    for flavor in plan.flavors:
        for part in flavor.components:
            for kept in part.kept:
                what = f"{kept.tensors} tensors of {part.name or 'the model'}"
                ctx.log(f"{flavor.flavor}: {what} stay: {kept.reason}")
