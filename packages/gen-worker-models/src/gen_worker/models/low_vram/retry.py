"""`with_oom_retry`: runs a call again, one step further down, when the GPU was full."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gen_worker.errors import is_out_of_memory
from gen_worker.models.low_vram.configure import check_mode, device_of, vae_only
from gen_worker.models.low_vram.descent import descend
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.low_vram.failures import failed_component, release_frames
from gen_worker.models.low_vram.hooks import mark_out_of_memory, stamp_of
from gen_worker.models.low_vram.locks import lock_for_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["with_oom_retry"]

_log = logging.getLogger("gen_worker.models")
_ESCALATION = ("vae_only", "model_offload", "group_offload", "sequential")


def with_oom_retry(
    fn: Callable[..., Any],
    *args: Any,
    pipelines: Iterable[Any] | None = None,
    max_retries: int = 2,
    escalation: Sequence[str] = _ESCALATION,
    logger: Any = None,
    **kwargs: Any,
) -> Any:
    """Call `fn`; when the GPU was full, make its pipelines need less and call it again.

    Args:
        fn: What is called, often the pipeline itself.
        *args: Its arguments.
        pipelines: What moves one step of `escalation` at each retry; without any, memory that
            nothing uses is given back and the call repeated.
        max_retries: How often it is called again.
        escalation: The steps, in order; a pipeline starts behind the one it is stamped with.
        logger: Told of retries and of steps that were skipped.
        **kwargs: More arguments of `fn`.

    Raises:
        ValueError: `escalation` names no mode.
        torch.OutOfMemoryError: The GPU was full, and no retry or no step is left.
    """
    for mode in escalation:
        check_mode(mode)
    log = logger or _log
    targets = list(pipelines or ())
    attempt = 0
    while True:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error) or attempt >= max_retries:
                raise
            attempt += 1
            stages = [failed_component(pipeline, error) for pipeline in targets]
            release_frames(error)
            machine = Machine()
            machine.gpus.flush()
            pairs = zip(targets, stages, strict=True)
            moved = [_step_down(x, stage, escalation, machine, log) for x, stage in pairs]
            if moved and not any(moved):
                raise
        log.warning("the GPU was full, retry %d of %d", attempt, max_retries)


def _step_down(
    pipeline: Any, stage: str, escalation: Sequence[str], machine: Machine, log: Any
) -> bool:
    """Move a pipeline to its next step; tell whether there was one."""
    with lock_for_pipeline(pipeline):
        stamp = stamp_of(pipeline)
        start = escalation.index(stamp) + 1 if stamp in escalation else 0
        # Slicing the VAE does not help what never reached it.
        is_elsewhere = stage != "" and not stage.startswith("vae")
        steps = [x for x in escalation[start:] if not (is_elsewhere and x == "vae_only")]
        device = device_of(pipeline)
        mark_out_of_memory(pipeline)
        if steps and not machine.gpus.is_available():
            vae_only(pipeline, steps[0], device)
            return True  # what was flushed is all the help there is
        name = type(pipeline).__name__
        return descend(pipeline, steps, device, machine=machine, name=name, log=log).mode != ""
