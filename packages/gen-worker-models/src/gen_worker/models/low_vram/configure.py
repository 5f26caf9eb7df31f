"""`apply_low_vram_config`: the ladder as authors and the worker's baseline pass call it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from gen_worker.models.low_vram.facts import Machine, current_gpu
from gen_worker.models.low_vram.hooks import note, stamp_of, state_of
from gen_worker.models.low_vram.ladder import MODES, OFFLOADED, auto_mode
from gen_worker.models.low_vram.locks import lock_for_pipeline
from gen_worker.models.low_vram.steps import StepUnavailable, blank_result, enable_vae, install
from gen_worker.models.residency.gpu_memory import index_of

__all__ = ["apply_low_vram_config", "check_mode", "configure", "device_of", "vae_only"]

_log = logging.getLogger("gen_worker.models")


def apply_low_vram_config(
    pipeline: Any,
    *,
    mode: str = "auto",
    logger: Any = None,
    model_size_gb: float | None = None,
    peak_vram_gb: float | None = None,
    offload_to_disk_path: str | None = None,
) -> dict[str, Any]:
    """Make a pipeline need less GPU memory, once.

    Args:
        pipeline: A diffusers pipeline, or an object with its methods; those that are missing are
            skipped.
        mode: A step of the ladder, or `auto`: `COZY_INFERENCE_MEMORY_MODE`, else what the GPU's
            size asks for.
        logger: Told what was skipped, in place of the worker's own logger.
        model_size_gb: Size of the weights in GiB; None measures them.
        peak_vram_gb: What a request takes at its peak, if that is known.
        offload_to_disk_path: Where `group_offload` keeps the weights; None decides by the RAM
            that is left.

    Returns:
        What is in force: `mode` and one entry for each measure. For a pipeline that was configured
        before, only its `mode` and `already_applied: True`.

    Raises:
        ValueError: There is no such mode.
        torch.OutOfMemoryError: The step itself did not fit; the pipeline is in RAM.
    """
    check_mode(mode)
    with lock_for_pipeline(pipeline):
        prior = stamp_of(pipeline)
        if prior:
            return {"mode": prior, "already_applied": True}
        return configure(
            pipeline,
            mode,
            device_of(pipeline),
            machine=Machine(),
            log=logger or _log,
            size_gb=model_size_gb,
            peak_gb=peak_vram_gb,
            directory=offload_to_disk_path,
        )


def check_mode(mode: str) -> None:
    """Refuse what is no mode.

    Raises:
        ValueError: There is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown low-VRAM mode {mode!r}: use one of {', '.join(MODES)}")


def configure(
    pipeline: Any,
    mode: str,
    device: str,
    *,
    machine: Machine,
    log: Any = _log,
    size_gb: float | None = None,
    peak_gb: float | None = None,
    directory: str | None = None,
) -> dict[str, Any]:
    """Put a mode on a pipeline; a step it cannot take leaves it with less, never without word."""
    if mode == "auto":
        ladder = machine.ladder
        facts = machine.facts(pipeline, device, size_gb=size_gb, peak_gb=peak_gb)
        mode = ladder.mode if ladder.mode != "auto" else auto_mode(facts, ladder)
    if mode in OFFLOADED and (index_of(device) is None or not machine.gpus.is_available()):
        return vae_only(pipeline, mode, device)
    for step in (mode, "sequential") if mode == "group_offload" else (mode,):
        try:
            return install(pipeline, step, device, machine=machine, directory=directory)
        except StepUnavailable as error:
            log.warning("low-VRAM step skipped: %s", error)
    return vae_only(pipeline, mode, device)


def device_of(pipeline: Any) -> str:
    """Return the GPU a pipeline is on or its hooks bring it to, else torch's current one."""
    state = state_of(pipeline)
    # Offloaded, it says that it is on the CPU; whole, it may have moved since the note was made.
    own = state.device if state.mode in OFFLOADED else getattr(pipeline, "device", state.device)
    index = index_of(own)
    return f"cuda:{current_gpu() if index is None else index}"


def vae_only(pipeline: Any, wanted: str, device: str) -> dict[str, Any]:
    """Do what needs no GPU; the answer names the mode that was asked for, the stamp the truth."""
    result = {**blank_result(wanted), **enable_vae(pipeline)}
    note(pipeline, msgspec.structs.replace(state_of(pipeline), mode="vae_only", device=device))
    return result
