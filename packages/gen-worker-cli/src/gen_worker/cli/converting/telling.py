"""What a person reads of plans: lines with aligned columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.conversion.convert import ConversionPlan
    from gen_worker.conversion.verify import VerificationReport

__all__ = ["plan_lines", "time_text", "verified_text"]


def time_text(seconds: float) -> str:
    """Return a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plan_lines(plan: ConversionPlan) -> Iterator[str]:
    """Yield what a conversion will do."""
    words = [plan.layout, plan.family, size_text(plan.source_bytes)]
    yield f"{plan.request.source}: {', '.join(word for word in words if word != 'unknown')}"
    for flavor in plan.flavors:
        yield f"{flavor.flavor} -> {flavor.path}: {size_text(flavor.size_bytes)}"
        rows = [
            (
                f"  {part.name or 'model'}",
                part.action,
                f"{part.source_dtype} -> {part.dtype}"
                if part.action not in ("copy", "merge")
                else part.dtype,
                f"{part.changed} of {part.tensors} tensors"
                + (f", {part.merged} merged" if part.merged else ""),
                f"{size_text(part.source_bytes)} -> {size_text(part.size_bytes)}",
            )
            for part in flavor.components
        ]
        for part, row in zip(flavor.components, _table(rows), strict=True):
            yield row
            for kept in part.kept:
                count = "1 tensor" if kept.tensors == 1 else f"{kept.tensors} tensors"
                what = f"{count}, {size_text(kept.size_bytes)}, such as {kept.example}"
                yield f"    stays: {kept.reason}: {what}"
        yield from (f"  note: {note}" for note in flavor.notes)
    duration = time_text(max(plan.seconds, 1))
    yield (
        f"in all {size_text(plan.size_bytes)} on disk, {size_text(plan.free_bytes)} are free; "
        f"{size_text(plan.memory_bytes)} of memory beyond torch; about {duration}"
    )


def verified_text(report: VerificationReport) -> str:
    """Return in one line how close an output is to its source."""
    count, worst = len(report.tensors), report.worst
    loads = ", ".join(sorted(set(report.loaded.values())))
    text = f"{count} tensors" + (f", loads as {loads}" if loads else "")
    if report.quality is not None:
        decibels = report.quality.snr_db
        text += ", outputs " + ("equal" if decibels is None else f"within {decibels:.1f} dB")
    if worst is None:
        return f"{text}, all exact"
    where = "/".join(filter(None, (worst.component, worst.name)))
    return f"{text}; furthest from the source is {where} with {worst.snr_db:.1f} dB"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
