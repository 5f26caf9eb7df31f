"""Takes off whatever moves a pipeline's weights, and keeps note of what was put on."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.low_vram.locks import lock_for_pipeline
from gen_worker.models.residency.weights import modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "State",
    "mark_out_of_memory",
    "move_to_cpu",
    "note",
    "remove_hooks",
    "stamp_of",
    "state_of",
    "without_hooks",
]

_STAMP = "_cozy_low_vram_mode"
_STATE = "_cozy_low_vram_state"
# What diffusers.hooks.group_offloading registers; the later ones wrap the first.
_GROUP_HOOKS = ("lazy_prefetch_group_offloading", "layer_execution_tracker", "group_offloading")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is installed on a pipeline."""

    mode: str
    device: str = ""
    disk_directory: str = ""
    is_cast: bool = False
    """Whether weights are stored in 8 bits; that cannot be undone."""
    has_run_out: bool = False
    """Whether it ran out of memory with less than this: then it is not tried again."""


def stamp_of(pipeline: Any) -> str:
    """Return the mode a pipeline is stamped with; empty when it is not."""
    mode = getattr(pipeline, _STAMP, "")
    return mode if isinstance(mode, str) else ""


def state_of(pipeline: Any) -> State:
    state = getattr(pipeline, _STATE, None)
    return state if isinstance(state, State) else State(mode=stamp_of(pipeline))


def note(pipeline: Any, state: State) -> None:
    """Stamp a pipeline with what is really installed."""
    for name, value in ((_STAMP, state.mode), (_STATE, state)):
        try:
            setattr(pipeline, name, value)
        except (AttributeError, TypeError):  # an object with slots cannot be stamped
            return


def mark_out_of_memory(pipeline: Any) -> None:
    """Remember that the GPU was too small for what is installed."""
    state = state_of(pipeline)
    if not state.has_run_out:
        note(pipeline, msgspec.structs.replace(state, has_run_out=True))


def remove_hooks(pipeline: Any) -> None:
    """Take off every offload hook, of accelerate and of diffusers, and any device map.

    Weights that were on disk are read back. Casting to 8 bits stays: the bits are gone.
    """
    remove_all = getattr(pipeline, "remove_all_hooks", None)
    if callable(remove_all):
        remove_all()
    for module in modules_of(pipeline).values():
        _remove_group_hooks(module)
    directory = state_of(pipeline).disk_directory
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    # Not `reset_device_map` alone: it would leave one device's map, which needs no removal.
    if isinstance(getattr(pipeline, "hf_device_map", None), dict):
        pipeline.reset_device_map()


def move_to_cpu(pipeline: Any) -> None:
    """Move a pipeline without hooks to RAM."""
    modules = modules_of(pipeline)
    # One by one: a pipeline warns of half precision on a CPU, where it is only kept.
    for module in modules.values():
        module.to("cpu")
    if not modules and callable(getattr(pipeline, "to", None)):
        pipeline.to("cpu")


@contextmanager
def without_hooks(pipeline: Any) -> Iterator[None]:
    """Take a pipeline's hooks off for the block, in RAM, and put the same step on again.

    For changing modules, such as attaching a LoRA: hooks refer to the tensors they found. A
    pipeline without offload is left alone.
    """
    from gen_worker.models.low_vram.ladder import OFFLOADED
    from gen_worker.models.low_vram.steps import install

    with lock_for_pipeline(pipeline):
        state = state_of(pipeline)
        if state.mode not in OFFLOADED:
            yield
            return
        remove_hooks(pipeline)
        move_to_cpu(pipeline)
        try:
            yield
        finally:
            install(pipeline, state.mode, state.device)


def _remove_group_hooks(module: Any) -> None:
    if not callable(getattr(module, "modules", None)):
        return
    registries = [x._diffusers_hook for x in module.modules() if hasattr(x, "_diffusers_hook")]
    hooks = [x.get_hook("group_offloading") for x in registries]
    groups = {id(hook.group): hook.group for hook in hooks if hook is not None}
    if not groups:
        return
    for group in groups.values():
        if group.offload_to_disk_path:
            _read_back(group)
        else:
            group.offload_()
    for name in _GROUP_HOOKS:
        for registry in registries:
            registry.remove_hook(name, recurse=False)


def _read_back(group: Any) -> None:
    """Load a group's weights from disk into RAM; between calls its tensors hold nothing."""
    from safetensors.torch import load_file

    if not os.path.exists(group.safetensors_file_path):  # it never got that far
        return
    loaded = load_file(group.safetensors_file_path, device="cpu")
    for key, tensor in group.key_to_tensor.items():
        tensor.data = loaded[key]
