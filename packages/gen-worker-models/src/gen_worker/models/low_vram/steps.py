"""Puts one step of the ladder on a pipeline. A step replaces whatever was there before."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import is_out_of_memory
from gen_worker.models.low_vram.facts import Machine, denoisers_of
from gen_worker.models.low_vram.groups import GroupOffload
from gen_worker.models.low_vram.hooks import State, move_to_cpu, note, remove_hooks, state_of
from gen_worker.models.low_vram.ladder import OFFLOADED, disk_directory
from gen_worker.models.residency.gpu_memory import index_of
from gen_worker.models.residency.values import GIB
from gen_worker.models.residency.weights import modules_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StepUnavailable", "blank_result", "can_take", "enable_vae", "install"]

_log = logging.getLogger("gen_worker.models")


class StepUnavailable(Exception):
    """A pipeline does not have what a step needs; never leaves this package."""


def blank_result(mode: str) -> dict[str, Any]:
    """Return the answer of `apply_low_vram_config` for a pipeline nothing was done to."""
    return {
        "mode": mode,
        "vae_slicing": False,
        "vae_tiling": False,
        "attention_slicing": False,
        "model_offload": False,
        "group_offload": False,
        "sequential_offload": False,
        "disk_offload_path": None,
        "already_applied": False,
    }


def install(
    pipeline: Any,
    mode: str,
    device: str,
    *,
    machine: Machine | None = None,
    directory: str | None = None,
) -> dict[str, Any]:
    """Put a step on a pipeline, in place of the one it has, and stamp it.

    Args:
        pipeline: What it is put on; held locked by the caller.
        mode: The step.
        device: Where the pipeline runs.
        machine: What group offload looks at.
        directory: Where group offload keeps weights; None decides by the RAM that is left.

    Returns:
        What `apply_low_vram_config` answers.

    Raises:
        StepUnavailable: The pipeline cannot take it, or it failed; the pipeline is then in RAM
            without hooks, or as it was when it has no such step at all.
        Exception: The GPU is full; the pipeline is in RAM without hooks.
    """
    machine = machine or Machine()
    if not can_take(pipeline, mode):
        raise StepUnavailable(f"{type(pipeline).__name__} has no {mode}")
    prior = state_of(pipeline)
    state = msgspec.structs.replace(prior, mode=mode, device=device, disk_directory="")
    if mode == "sequential" and prior.disk_directory:
        _check_ram(pipeline, device, machine)
    if mode in OFFLOADED or prior.mode in OFFLOADED:
        _reset(pipeline, machine)
    result = blank_result(mode)
    if mode != "off":
        result.update(enable_vae(pipeline))
    try:
        result.update(_enable(pipeline, mode, device, machine, directory))
    except Exception as error:
        _reset(pipeline, machine)
        left = msgspec.structs.replace(state, mode="vae_only", device="", disk_directory="")
        note(pipeline, left)
        if is_out_of_memory(error):
            raise
        raise StepUnavailable(f"{mode} of {type(pipeline).__name__} failed: {error}") from error
    is_cast = prior.is_cast or mode == "fp8_layerwise"
    folder = result["disk_offload_path"] or ""
    note(pipeline, msgspec.structs.replace(state, is_cast=is_cast, disk_directory=folder))
    return result


def _enable(
    pipeline: Any, mode: str, device: str, machine: Machine, directory: str | None
) -> dict[str, Any]:
    """Do what makes a step; return what of the answer it changes."""
    if mode == "fp8_layerwise":
        _cast(pipeline)
        return {"fp8_layerwise": True}
    if mode == "model_offload":
        _call_for(device, pipeline.enable_model_cpu_offload)
        return {"model_offload": True}
    if mode == "group_offload":
        folder = _enable_groups(pipeline, device, machine, directory)
        return {"group_offload": True, "disk_offload_path": folder or None}
    if mode == "sequential":
        _call_for(device, pipeline.enable_sequential_cpu_offload)
        return {"sequential_offload": True}
    return {}


def can_take(pipeline: Any, mode: str) -> bool:
    """Tell whether a pipeline has what a step needs."""
    if mode == "fp8_layerwise":
        return not state_of(pipeline).is_cast and any(_castable(pipeline))
    if mode == "model_offload":
        return callable(getattr(pipeline, "enable_model_cpu_offload", None))
    if mode == "sequential":
        return callable(getattr(pipeline, "enable_sequential_cpu_offload", None))
    return True


def enable_vae(pipeline: Any) -> dict[str, bool]:
    """Slice and tile the VAE, and slice attention, where there is something to slice."""
    vae = getattr(pipeline, "vae", None)
    return {
        "vae_slicing": _call_first((pipeline, "enable_vae_slicing"), (vae, "enable_slicing")),
        "vae_tiling": _call_first((pipeline, "enable_vae_tiling"), (vae, "enable_tiling")),
        "attention_slicing": not _has_fused_attention(pipeline)
        and _call_first((pipeline, "enable_attention_slicing")),
    }


def _has_fused_attention(pipeline: Any) -> bool:
    """Tell whether attention needs no slicing: torch's own is smaller, faster and exact."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        return False
    return any(isinstance(x, torch.nn.Module) for x in denoisers_of(pipeline).values())


def _call_first(*methods: tuple[Any, str]) -> bool:
    """Call the first method that exists and works."""
    for owner, name in methods:
        method = getattr(owner, name, None)
        if callable(method):
            try:
                method()
            except Exception as error:  # such as a VAE that cannot be tiled
                _log.info("%s of %s failed: %s", name, type(owner).__name__, error)
            else:
                return True
    return False


def _call_for(device: str, method: Callable[..., Any]) -> None:
    """Call an offload method of diffusers for a device; older ones want the GPU's number."""
    index = index_of(device)
    if index is None:
        method(device=device)
        return
    if index:
        method(gpu_id=index)
        return
    try:
        method()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        method(gpu_id=0)


def _reset(pipeline: Any, machine: Machine) -> None:
    remove_hooks(pipeline)
    move_to_cpu(pipeline)
    machine.gpus.flush()


def _check_ram(pipeline: Any, device: str, machine: Machine) -> None:
    """Refuse to read weights back from disk that RAM has no room for."""
    facts = machine.facts(pipeline, device)
    if 0 < facts.ram_gb < facts.size_gb:
        raise StepUnavailable(
            f"sequential offload of {type(pipeline).__name__} needs {facts.size_gb:.1f} GiB of"
            f" RAM, {facts.ram_gb:.1f} are available"
        )


def _castable(pipeline: Any) -> list[Any]:
    modules = denoisers_of(pipeline).values()
    return [x for x in modules if callable(getattr(x, "enable_layerwise_casting", None))]


def _cast(pipeline: Any) -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]

    for module in _castable(pipeline):
        module.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=module.dtype
        )


def _enable_groups(pipeline: Any, device: str, machine: Machine, directory: str | None) -> str:
    """Install group offload; return the directory it keeps weights in, empty for RAM."""
    facts = machine.facts(pipeline, device)
    if directory is None:
        directory = disk_directory(facts, machine.ladder)
    folder = _own_directory(pipeline, directory) if directory else ""
    budget = int((facts.free_gb - machine.ladder.margin_gb) * GIB)
    offload = GroupOffload(
        device,
        directory=folder,
        budget=budget,
        is_ram_short=0 < facts.ram_gb < facts.size_gb,
    )
    try:
        is_installed = offload.install(pipeline)
    except BaseException:
        # The hooks know where their weights are, so that they can be read back first.
        note(pipeline, State(mode="group_offload", device=device, disk_directory=folder))
        raise
    if not is_installed:
        raise StepUnavailable(f"{type(pipeline).__name__} has no group offload")
    return folder


def _own_directory(pipeline: Any, directory: str) -> str:
    """Make a directory for one pipeline, which goes when the pipeline does.

    diffusers names files by layers and takes a file that exists for its own: in a directory that
    two pipelines share, the second one would compute with the first one's weights.
    """
    os.makedirs(directory, exist_ok=True)
    if not modules_of(pipeline):
        return directory
    folder = tempfile.mkdtemp(prefix=f"{type(pipeline).__name__}-", dir=directory)
    try:
        weakref.finalize(pipeline, shutil.rmtree, folder, ignore_errors=True)
    except TypeError:
        _log.warning("%r is left behind: %s cannot be watched", folder, type(pipeline).__name__)
    return folder
