"""Goes down a list of steps to the first that a pipeline can take and that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import is_out_of_memory
from gen_worker.models.low_vram.failures import release_frames
from gen_worker.models.low_vram.hooks import mark_out_of_memory
from gen_worker.models.low_vram.ladder import OFFLOADED
from gen_worker.models.low_vram.steps import StepUnavailable, install

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.low_vram.facts import Machine

__all__ = ["Descent", "descend"]


class Descent(NamedTuple):
    """Where going down has ended."""

    mode: str
    """The step in force; empty: none could be installed."""
    result: dict[str, Any]
    """What `apply_low_vram_config` answers for it."""
    failures: int
    """Steps that did not fit."""
    error: Exception | None
    """What the last of them raised."""


def descend(
    pipeline: Any, steps: Iterable[str], device: str, *, machine: Machine, name: str, log: Any
) -> Descent:
    """Install the first of these steps that is there and fits.

    Args:
        pipeline: What they are put on; held locked by the caller.
        steps: Best first.
        device: Where the pipeline runs.
        machine: What group offload looks at.
        name: Of the pipeline, in the log.
        log: Told of each step that is skipped.

    Raises:
        Exception: What a step raised that was neither out of memory nor a missing method.
    """
    failures, error = 0, None
    for mode in steps:
        if failures and mode not in OFFLOADED:
            continue  # the pipeline is in RAM now: only hooks bring it back
        try:
            result = install(pipeline, mode, device, machine=machine)
        except StepUnavailable as reason:
            log.warning("%s skips a low-VRAM step: %s", name, reason)
        except Exception as failure:
            if not is_out_of_memory(failure):
                raise
            log.warning("%s does not fit as %s", name, mode)
            release_frames(failure)
            mark_out_of_memory(pipeline)
            machine.gpus.flush()
            failures, error = failures + 1, failure
        else:
            return Descent(mode, result, failures, error)
    return Descent("", {}, failures, error)
