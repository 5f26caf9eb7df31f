"""`with_oom_retry`: runs a call again, one step further down, when the GPU was full."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from gen_worker.models.low_vram.configure import check_mode, device_of, vae_only
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.low_vram.hooks import stamp_of
from gen_worker.models.low_vram.ladder import OFFLOADED
from gen_worker.models.low_vram.locks import lock_for_pipeline
from gen_worker.models.low_vram.steps import StepUnavailable, install
from gen_worker.models.residency.gpu_memory import is_out_of_memory
from gen_worker.models.residency.weights import modules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["failed_component", "release_frames", "with_oom_retry"]

_log = logging.getLogger("gen_worker.models")
_IS_FUNCTION = 1  # inspect.CO_OPTIMIZED
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


def failed_component(pipeline: Any, error: BaseException) -> str:
    """Return which component of a pipeline ran when an error was raised; empty when unknown."""
    owners = {
        id(part): name
        for name, module in modules_of(pipeline).items()
        if callable(getattr(module, "modules", None))
        for part in module.modules()
    }
    found = ""
    # The first frame is the one that caught the error: its own locals hold that very error.
    first = error.__traceback__
    for frame, _ in traceback.walk_tb(first.tb_next if first else None):
        code = frame.f_code
        if not code.co_flags & _IS_FUNCTION or code.co_varnames[:1] != ("self",):
            continue
        values = frame.f_locals
        found = owners.get(id(values.get("self")), found)
        if isinstance(values, dict):  # a copy, up to CPython 3.12, that would outlive the frame
            values.clear()
    return found


def release_frames(error: BaseException) -> None:
    """Let go of the tensors that an error's frames hold; the text of its traceback stays."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def _step_down(
    pipeline: Any, stage: str, escalation: Sequence[str], machine: Machine, log: Any
) -> bool:
    """Move a pipeline to its next step; tell whether there was one."""
    with lock_for_pipeline(pipeline):
        stamp = stamp_of(pipeline)
        start = escalation.index(stamp) + 1 if stamp in escalation else 0
        for mode in escalation[start:]:
            # Slicing the VAE does not help what never reached it.
            if mode == "vae_only" and stage and not stage.startswith("vae"):
                continue
            if mode in OFFLOADED and not machine.gpus.is_available():
                vae_only(pipeline, mode, device_of(pipeline))
                return True  # what was flushed is all the help there is
            try:
                install(pipeline, mode, device_of(pipeline), machine=machine)
            except StepUnavailable as error:
                log.warning("low-VRAM step skipped: %s", error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("low-VRAM step %s did not fit: %s", mode, error)
            else:
                return True
        return False
