"""Outputs compared with what they were made of, tensor by tensor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.conversion.convert.outputs import outputs_of
from gen_worker.conversion.convert.running import target_of
from gen_worker.conversion.convert.targets import KEEP, Target
from gen_worker.conversion.lazy import reshape
from gen_worker.conversion.verify import Limits, verify_output

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.convert.values import (
        ConversionPlan,
        ConversionRequest,
        FlavorPlan,
    )
    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.verify import VerificationReport

__all__ = ["verify_flavor"]


def verify_flavor(
    plan: ConversionPlan,
    flavor: FlavorPlan,
    *,
    limits: Limits | None = None,
    token: CancelToken | None = None,
) -> VerificationReport:
    """Prove that an output of a finished plan is what was planned; blocks.

    Every tensor is read again, as a loader would have it, and compared with the source's; each
    component that has a configuration is loaded on the meta device, and so is what diffusers would
    make of a single file.

    Args:
        plan: Of `plan_conversion`, carried out.
        flavor: One of its outputs.
        limits: What is not allowed.
        token: Ends the work between two slabs.

    Raises:
        VerificationError: It is not; everything that is wrong is listed.
    """
    outputs = {
        output.component: output for output in outputs_of(plan.request, target_of(flavor.token))
    }
    first = next(iter(outputs.values()))
    if first.action == "gguf":
        numbers = _numbers(plan.request, target_of(flavor.token), first.made)
        return verify_output(
            _first_file(flavor.path, first.prefix),
            {"": _in_rows(numbers)},
            read_back=lambda _component, stored: _in_rows(stored),
            limits=limits or Limits(),
            origin=plan.request.source,
            token=token,
        )

    def read_back(component: str, stored: Checkpoint) -> Checkpoint:
        back = outputs[component].read_back
        return back(stored) if back is not None else stored

    return verify_output(
        flavor.path,
        {name: output.source for name, output in outputs.items()},
        read_back=read_back,
        limits=limits or Limits(),
        origin=plan.request.source if first.is_whole_model or not plan.request.layout else None,
        token=token,
    )


def _first_file(folder: str, stem: str) -> str:
    """Return the file that a reader is given: of several, the first."""
    parts = sorted(name for name in os.listdir(folder) if name.startswith(f"{stem}-00001-of-"))
    return os.path.join(folder, parts[0] if parts else f"{stem}.gguf")


def _in_rows(checkpoint: Checkpoint) -> Checkpoint:
    """Return tensors with two dimensions at most: all rows of an expert may be gigabytes."""
    return {
        name: reshape(tensor, (-1, tensor.shape[-1])) if len(tensor.shape) > 2 else tensor
        for name, tensor in checkpoint.items()
    }


def _numbers(request: ConversionRequest, target: Target, made: Checkpoint) -> Checkpoint:
    """Return what the tensors of a GGUF file stand for, as precise as the source has them."""
    from gen_worker.conversion.lazy.gguf_file import RawBlocks

    if target.token == KEEP:
        return {
            name: tensor.unpacked if isinstance(tensor, RawBlocks) else tensor
            for name, tensor in made.items()
        }
    options = msgspec.structs.replace(request.gguf, importance="")
    whole = msgspec.structs.replace(request, gguf=options)
    return outputs_of(whole, Target("f32", True))[0].made
