"""A plan carried out: each flavor made in a directory of its own, and proven there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.clone.planning import FailedFlavor
from gen_worker.clone.size_facts import compute_size_facts
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.conversion.provenance import Provenance
from gen_worker.conversion.streaming import shard_safetensors_by_offset
from gen_worker.conversion.writer.shards import MAX_SAFETENSORS_SHARD_BYTES
from gen_worker.models.formats.plain_files import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from gen_worker.cancel import CancelToken
    from gen_worker.clone.planning import CloneFlavor, ClonePlan
    from gen_worker.clone.progress import CloneProgress, Span
    from gen_worker.conversion.convert import ConversionPlan, ConversionResult

__all__ = ["MadeFlavor", "make_flavors"]


_SHOWN = 5


class MadeFlavor(NamedTuple):
    """One flavor whose files are here."""

    flavor: CloneFlavor
    directory: str
    size_facts: dict[str, Any]
    """Of this flavor, not of its source."""
    attributes: Mapping[str, Any] = {}
    """What is published with it: how it was made, where it comes from, what was verified."""
    digests: Mapping[str, str] = {}
    """Of files that are the source's own, as the source names them, by path."""


class _Planned(NamedTuple):
    """A flavor whose conversion is possible."""

    flavor: CloneFlavor
    conversion: ConversionPlan


def make_flavors(
    plan: ClonePlan,
    source: str,
    work: str,
    *,
    progress: CloneProgress,
    token: CancelToken,
    digests: Mapping[str, str] | None = None,
    card_from: str | None = None,
    on_file: Callable[[str], None] | None = None,
    max_file_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
) -> tuple[list[MadeFlavor], list[FailedFlavor]]:
    """Make and verify the flavors of a plan; blocks. What an earlier run made is not repeated.

    Args:
        plan: What to make.
        source: The fetched files; they stay as they are.
        work: Where flavors are made; a directory there is a finished flavor.
        progress: Told of stages.
        token: Ends the work.
        digests: Of the source's files, `<algorithm>:<hex>` by path.
        card_from: Directory with a model card of the source that is none of its files.
        on_file: Called with each finished file, in this thread, while others are still made.
        max_file_bytes: Files of weights above it are split.

    Returns:
        What was made, and what turned out not to be possible, or not right.

    Raises:
        ConversionError: An output could not be written.
        DamagedFileError: The source is no sound model.
        CanceledError: The token was canceled.
    """
    run = _Run(
        plan=plan,
        source=source,
        work=work,
        progress=progress,
        token=token,
        digests=digests or {},
        card_from=card_from,
        on_file=on_file,
        max_file_bytes=max_file_bytes,
        failed=list(plan.failed),
    )
    for made in run.all():
        run.made.append(made)
        if on_file is not None:
            for real, _ in files_below(made.directory):
                on_file(real)
    return run.made, run.failed


@dataclass(kw_only=True, slots=True)
class _Run:
    """The work of one call, whose arguments it has."""

    plan: ClonePlan
    source: str
    work: str
    progress: CloneProgress
    token: CancelToken
    digests: Mapping[str, str]
    card_from: str | None
    on_file: Callable[[str], None] | None
    max_file_bytes: int
    made: list[MadeFlavor] = field(default_factory=list)
    failed: list[FailedFlavor] = field(default_factory=list)

    def all(self) -> Iterator[MadeFlavor]:
        """Yield flavors as they are finished; those whose layout changes come last."""
        start, _ = self.progress.share(0, 1)
        for one in self.failed:
            self.progress.stage(
                "clone.save_format.skipped", start, flavor=one.spec_label, reason=one.reason
            )
        own = [flavor for flavor in self.plan.flavors if flavor.is_passthrough]
        others = [flavor for flavor in self.plan.flavors if not flavor.is_passthrough]
        every = [found for one in others if (found := self._planned(one, start)) is not None]
        converted = [one for one in every if not one.flavor.changes_layout]
        repackaged = [one for one in every if one.flavor.changes_layout]
        count = len(own) + len(converted)
        for number, flavor in enumerate(own):
            _, end = self.progress.share(number, count)
            made = self._own(flavor)
            self.progress.stage("clone.save_format.completed", end, flavor=flavor.label)
            yield made
        for number, planned in enumerate(converted, len(own)):
            span = self.progress.share(number, count)
            yield from self._made(planned, span, "clone.save_format")
        for number, planned in enumerate(repackaged):
            span = self.progress.repackage_share(number, len(repackaged))
            self.progress.stage("clone.repackage.started", span[0], flavor=planned.flavor.label)
            yield from self._made(planned, span, "clone.repackage")

    # The source's own bytes

    def _own(self, flavor: CloneFlavor) -> MadeFlavor:
        """Return the source as a flavor; files that are too large are split."""
        self.token.raise_if_canceled()
        if not flavor.split_files:
            facts = compute_size_facts(self.source)
            told = {"is_source": True, "files": sum(1 for _ in files_below(self.source))}
            return MadeFlavor(
                flavor, self.source, facts, self._told(flavor, told), dict(self.digests)
            )
        place = os.path.join(self.work, flavor.label)
        self._split(flavor, place)
        from gen_worker.conversion.verify import Limits, verify_output

        report = verify_output(
            place, self.source, limits=Limits(max_abs=0.0), loads=False, token=self.token
        )
        digests = {
            path: told for path, told in self.digests.items() if path not in flavor.split_files
        }
        facts = compute_size_facts(place)
        return MadeFlavor(flavor, place, facts, self._told(flavor, report.summary()), digests)

    def _split(self, flavor: CloneFlavor, place: str) -> None:
        whole = {path: real for real, path in files_below(self.source)}
        place_files({path: whole[path] for path in whole.keys() - {*flavor.split_files}}, place)
        for path in flavor.split_files:
            folder, _, name = path.rpartition("/")
            shard_safetensors_by_offset(
                whole[path],
                os.path.join(place, *folder.split("/")) if folder else place,
                max_shard_bytes=self.max_file_bytes,
                shard_prefix=name.removesuffix(".safetensors"),
            )

    def _told(self, flavor: CloneFlavor, verification: dict[str, Any]) -> dict[str, Any]:
        provenance = Provenance.of(
            source_ref=self.plan.identity.ref,
            source_revision=self.plan.identity.revision,
            recipe={"target": flavor.dtype, "action": "copy"},
        )
        return {"provenance": provenance.facts(), "verification": verification}

    # Conversions

    def _planned(self, flavor: CloneFlavor, progress: float) -> _Planned | None:
        """Plan a conversion, which reads headers only; one that cannot be is told at once."""
        from gen_worker.conversion.convert import plan_conversion

        layout = flavor.file_layout if flavor.changes_layout else None
        conversion = plan_conversion(
            self._input(layout),
            [f"gguf:{flavor.dtype}" if flavor.file_type == "gguf" else flavor.dtype],
            keep_in=self.work,
            layout="singlefile" if layout == "singlefile" else "diffusers" if layout else None,
            components=flavor.components,
        )
        reasons = list(dict.fromkeys(one.reason for one in conversion.refusals))
        has_folders = any(part.name for one in conversion.flavors for part in one.components)
        if layout and not reasons and has_folders != (layout == "diffusers"):
            reasons = [f"{conversion.layout} is not turned into {layout} here: keep its layout"]
        if reasons:
            self._fail(flavor, "; ".join(reasons), progress)
            return None
        return _Planned(flavor, conversion)

    def _input(self, layout: str | None) -> str:
        """Return what is converted: a file where one file becomes a pipeline."""
        weights = [real for real, path in files_below(self.source) if path.endswith(".safetensors")]
        return weights[0] if layout == "diffusers" and len(weights) == 1 else self.source

    def _made(self, one: _Planned, span: Span, stage: str) -> Iterator[MadeFlavor]:
        from gen_worker.conversion.convert import run_conversion
        from gen_worker.conversion.verify import VerificationError

        self.token.raise_if_canceled()
        flavor, place = one.flavor, one.conversion.flavors[0].path
        try:
            with self.progress.making(f"{stage}.converting", span) as watch:
                result = run_conversion(
                    one.conversion,
                    progress=lambda state: watch(state.done_bytes, state.total_bytes),
                    on_file=self.on_file,
                    token=self.token,
                )
                self._add_notices(one.conversion, place)
                attributes = self._proven(one.conversion, result)
        except VerificationError as error:
            shutil.rmtree(place)
            self._fail(flavor, f"it is not right: {'; '.join(error.problems[:_SHOWN])}", span[1])
            return
        self.progress.stage(f"{stage}.completed", span[1], flavor=flavor.label)
        yield MadeFlavor(flavor, place, compute_size_facts(place), attributes)

    def _add_notices(self, conversion: ConversionPlan, place: str) -> None:
        """Copy the licence of a file that was converted by itself."""
        from gen_worker.conversion.convert.notices import notices_in

        if conversion.request.source != self.source:
            names = notices_in(self.source)
            place_files({name: os.path.join(self.source, name) for name in names}, place)

    def _proven(self, conversion: ConversionPlan, result: ConversionResult) -> dict[str, Any]:
        from gen_worker.conversion.convert import prove_outputs

        identity = self.plan.identity
        (proven,) = prove_outputs(
            conversion,
            result,
            source_ref=identity.ref,
            source_revision=identity.revision,
            source_files=self.digests or None,
            card_from=self.card_from,
            token=self.token,
        )
        return dict(proven.produced.attributes)

    def _fail(self, flavor: CloneFlavor, reason: str, progress: float) -> None:
        for place in (self.source, self.work):  # nobody elsewhere knows the folders of this machine
            reason = reason.replace(place + os.sep, "").replace(place, self.plan.identity.ref)
        parts = (flavor.dtype.replace(":", "-"), flavor.file_layout, flavor.file_type)
        self.failed.append(
            FailedFlavor(
                spec_label="-".join(parts),
                dtype=flavor.dtype,
                file_type=flavor.file_type,
                reason=reason,
            )
        )
        self.progress.stage(
            "clone.save_format.failed", progress, flavor=flavor.label, reason=reason
        )
