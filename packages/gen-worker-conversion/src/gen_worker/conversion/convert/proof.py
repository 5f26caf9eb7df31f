"""Finished outputs made fit to be published: verified, with provenance, report and model card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.convert.proving import verify_flavor
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.provenance import Provenance, hashes_of, write_proof
from gen_worker.conversion.verify.gate import behaviour
from gen_worker.conversion.verify.values import VerificationError, VerificationReport
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.convert.values import (
        ConversionPlan,
        ConversionResult,
        FlavorPlan,
    )
    from gen_worker.conversion.verify import Limits, QualityGate

__all__ = ["ProvenFlavor", "gate_of", "prove_outputs", "relation_of"]

_PLACES = ("source", "out", "targets")
"""Of a request: where things were, and the other outputs, decide nothing about the bytes of one."""
_PATHS = ("path", "importance", "base", "models")
"""Of a request and its parts: files and folders that were read beside the source."""
_RELATIONS = {"quantization": "quantized", "manual-fork": "merge"}
"""What model cards call those of lineages."""


class ProvenFlavor(msgspec.Struct, frozen=True, kw_only=True):
    """An output that was found to be right."""

    produced: ProducedFlavor
    """As functions return it, with what its manifest says of the proof."""
    report: VerificationReport


def prove_outputs(
    plan: ConversionPlan,
    result: ConversionResult | None = None,
    *,
    source_ref: str = "",
    source_revision: str = "",
    source_files: Mapping[str, str] | None = None,
    card_from: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    gate: QualityGate | None = None,
    token: CancelToken | None = None,
) -> Iterator[ProvenFlavor]:
    """Verify the outputs of a finished plan, and write the proof into each; blocks.

    Every tensor is read again and compared with the source's. `provenance.json`,
    `verification.json` and a model card are written beside the weights.

    Args:
        plan: Of `plan_conversion`, carried out.
        result: Of `run_conversion`, whose digests of what it wrote are taken; None reads the files
            for them.
        source_ref: What the source is called; by default the name of its directory.
        source_revision: Checkpoint id or commit, where there is one.
        source_files: Digests of the source's files by path, where they are known: `blake3:<hex>`
            or another algorithm. None reads the files.
        card_from: Directory with the model card whose licence is carried over; that of the source
            by default.
        limits: What is not allowed.
        gate: Compares what the source and each output give for the same inputs.
        token: Ends the work between two slabs.

    Raises:
        VerificationError: An output is not what was planned; nothing is written into it.
        OutputSpaceError: The disk is full.
        CanceledError: The token was canceled.
    """
    source = plan.request.source
    known_files = hashes_of(source) if source_files is None else source_files
    for flavor in plan.flavors:
        report = verify_flavor(plan, flavor, limits=limits, token=token)
        if gate is not None:
            report = _gated(report, gate, source, flavor)
        facts = write_proof(
            flavor.path,
            Provenance.of(
                source_ref=source_ref or os.path.basename(source),
                source_revision=source_revision,
                source_files=known_files,
                recipe=_recipe(plan, flavor),
                files=hashes_of(flavor.path, _written(result, flavor)),
            ),
            report,
            source=source if card_from is None else card_from,
            relation=_RELATIONS.get(relation_of(flavor), ""),
        )
        attributes = {**flavor.attributes, **facts}
        made = ProducedFlavor(path=flavor.path, flavor=flavor.flavor, attributes=attributes)
        yield ProvenFlavor(produced=made, report=report)


def _written(result: ConversionResult | None, flavor: FlavorPlan) -> dict[str, str]:
    """Return the digests of what a run wrote for an output."""
    files = result.files.get(flavor.flavor, ()) if result is not None else ()
    return {file.path: f"blake3:{file.blake3}" for file in files}


def gate_of(plan: ConversionPlan, *, min_snr_db: float) -> QualityGate:
    """Return the gate that every output of a plan can be judged by; see `usual_gate`.

    Raises:
        ConversionInputError: Nobody knows how to run the source, or an output; or the source is
            not what the outputs should behave as.
    """
    from gen_worker.conversion.verify.usual_outputs import usual_gate

    request = plan.request
    if request.merge is not None or request.loras:
        raise ConversionInputError(
            "a quality gate compares with the source, and something is merged into it here: "
            "convert without the gate, or merge first and convert what came of it",
            step="verify",
        )
    has_gguf = any(part.action == "gguf" for one in plan.flavors for part in one.components)
    if has_gguf and os.path.isfile(os.path.join(request.source, "model_index.json")):
        raise ConversionInputError(
            "a GGUF file of a denoiser is no pipeline, so a quality gate cannot run it: convert "
            "it without the gate",
            step="verify",
        )
    return usual_gate(request.source, min_snr_db=min_snr_db)


def relation_of(flavor: FlavorPlan) -> str:
    """Return how an output is related to its source, as lineages name it."""
    if "quantization_method" in flavor.attributes:
        return "quantization"
    is_merged = not {"merge_method", "merged_loras"}.isdisjoint(flavor.attributes)
    return "manual-fork" if is_merged else "format-conversion"


def _gated(
    report: VerificationReport, gate: QualityGate, source: str, flavor: FlavorPlan
) -> VerificationReport:
    quality, problems = behaviour(gate, source, flavor.path)
    if problems:
        raise VerificationError(flavor.path, problems)
    return msgspec.structs.replace(report, quality=quality)


def _recipe(plan: ConversionPlan, flavor: FlavorPlan) -> dict[str, Any]:
    """Return what was asked for, without what nobody asked for and without places."""
    asked = msgspec.to_builtins(plan.request)
    told = {name: _plain(name, value) for name, value in asked.items() if name not in _PLACES}
    return {"target": flavor.token, **{name: value for name, value in told.items() if value}}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {key: _plain(key, one) for key, one in value.items()}
        return {key: one for key, one in inner.items() if one}
    if isinstance(value, (list, tuple)):
        return [_plain(name, one) for one in value]
    return _named(value) if name in _PATHS and value else value


def _named(path: str) -> str:
    """Return what was read from a path, by its content; of a folder the name."""
    name = os.path.basename(os.path.normpath(path))
    return f"{name} {hashes_of(path)[name]}" if os.path.isfile(path) else name
