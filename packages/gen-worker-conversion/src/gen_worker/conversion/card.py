"""The model card of an output: what the source's says of itself, and what was done to it."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.conversion.provenance import Provenance
    from gen_worker.conversion.verify import VerificationReport

__all__ = ["front_matter", "model_card"]

_CARRIED = (
    *("license", "license_name", "license_link", "extra_gated_prompt", "extra_gated_fields"),
    *("language", "pipeline_tag", "library_name", "datasets", "tags", "inference"),
)
"""What stays true of a model in another form."""
_MAX_CARD_BYTES = 1 << 20
_KEY = re.compile(r"([A-Za-z_][\w-]*):(?:\s|$)")
_REPO = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)")
"""What a card may name as the base model: no page of another site, no folder of this machine."""
_CARD = "README.md"


def model_card(
    provenance: Provenance,
    report: VerificationReport | None,
    *,
    source: str | os.PathLike[str] | None,
    relation: str = "",
) -> str:
    """Return a README.md with licence and base model, what was done, and how close the result is.

    Args:
        provenance: Where the output comes from.
        report: Of its verification.
        source: Directory of the source, or a file in it.
        relation: `base_model_relation` of model cards, such as `quantized`.
    """
    known = _source_matter(source)
    lines = ["---", *(known[key] for key in _CARRIED if key in known)]
    base = _REPO.fullmatch(provenance.source_ref)
    lines += [f"base_model: {json.dumps(base[1])}"] if base else []
    lines += [f"base_model_relation: {relation}"] if relation else []
    revision = f" at `{provenance.source_revision}`" if provenance.source_revision else ""
    lines += ["---", "", f"# {provenance.source_ref}, converted", ""]
    lines += [f"Made from `{provenance.source_ref}`{revision} by gen-worker-conversion.", ""]
    lines += ["## Recipe", "", "```json"]
    lines += [json.dumps(provenance.recipe, indent=2, sort_keys=True), "```", ""]
    if report is not None:
        lines += ["## Verification", "", *_table(report), ""]
    lines += ["## Tools", ""]
    lines += [f"- {name} {version}" for name, version in provenance.tools.items()]
    return "\n".join(lines) + "\n"


def front_matter(text: str) -> dict[str, str]:
    """Return the top-level entries of a card's YAML header by key, each as it is written."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    entries: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return {name: "\n".join(block) for name, block in entries.items()}
        found = _KEY.match(line)
        key = found[1] if found else key
        if key:
            entries.setdefault(key, []).append(line.rstrip())
    return {}  # a header without an end is none


def _source_matter(source: str | os.PathLike[str] | None) -> dict[str, str]:
    if source is None:
        return {}
    place = os.fspath(source)
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    try:
        with open(os.path.join(folder, _CARD), "rb") as file:
            return front_matter(file.read(_MAX_CARD_BYTES).decode("utf-8", "replace"))
    except FileNotFoundError:
        return {}


def _table(report: VerificationReport) -> list[str]:
    summary = report.summary()
    rows = {
        "tensors": summary["tensors"],
        "of these exact": summary["exact_tensors"],
        "largest error": f"{summary['max_abs']:.3g}",
        "lowest SNR": _decibels(summary["min_snr_db"]),
        "values that are no finite numbers": summary["nonfinite"],
    }
    if report.quality is not None:
        rows["SNR of the outputs"] = _decibels(report.quality.snr_db)
    rows |= {f"{name or 'model'} loads as": cls for name, cls in report.loaded.items() if cls}
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"
