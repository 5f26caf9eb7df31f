"""Whether the output behaves as the source does: what both give for the same inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.verify.comparing import Sums

if TYPE_CHECKING:
    from gen_worker.conversion.verify.values import Difference

__all__ = ["QualityGate", "behaviour"]


class QualityGate(msgspec.Struct, frozen=True, kw_only=True):
    """Outputs that are compared, and how close they must be."""

    outputs: Any
    """`(path) -> Sequence[Tensor]`: runs the model of a directory. Called for the source, then for
    the output, with the same state of torch's random numbers."""
    min_snr_db: float
    seed: int = 0


def behaviour(gate: QualityGate, source: str, result: str) -> tuple[Difference, list[str]]:
    """Run both models; return how far their outputs are apart, and what is wrong with that."""
    expected = _seeded(gate, source)
    made = _seeded(gate, result)
    shapes = [[tuple(one.shape) for one in outputs] for outputs in (made, expected)]
    sums = Sums()
    if shapes[0] != shapes[1]:
        return sums.difference(), [f"its outputs are {shapes[0]}, those of the source {shapes[1]}"]
    for ours, theirs in zip(made, expected, strict=True):
        sums.add(ours, theirs)
    difference = sums.difference()
    if sums.count < sum(one.numel() for one in expected):
        return difference, ["its outputs, or those of the source, are not all finite numbers"]
    if difference.snr_db is not None and difference.snr_db < gate.min_snr_db:
        return difference, [
            f"its outputs have {difference.snr_db:.1f} dB against those of the source, "
            f"{gate.min_snr_db:g} dB are needed: take more bits, keep more tensors in their "
            "precision, or be content with less"
        ]
    return difference, []


def _seeded(gate: QualityGate, path: str) -> list[Any]:
    import torch  # type: ignore[import-not-found,unused-ignore]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(gate.seed)
        return list(gate.outputs(path))
