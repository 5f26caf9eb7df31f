"""A training state as files, and back: `training_state/` in a checkpoint's directory.

model.safetensors   the model's tensors by their names in its `state_dict`; each once
ema.safetensors     of averages that are a module
state.safetensors   all other tensors
state.json          the rest, with the names of those tensors

Where several processes train, `rank-00001.json` and `.safetensors` are what the second one has for
itself. If each has a part of the tensors only, the first three are folders of the processes' files.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.state.modules import (
    ModuleParts,
    gradients_of,
    parameter_names,
    parts_of,
    unwrapped,
)
from gen_worker.trainer.state.sharding import own_parts, sharded_in
from gen_worker.trainer.state.staging import Layout, Staging, layout_of, write_staged
from gen_worker.trainer.state.training_state import EMA, TrainingState, named
from gen_worker.trainer.state.tree import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DIRECTORY",
    "OWN",
    "PAIRS",
    "SKELETON",
    "TENSORS",
    "Staged",
    "StatePlan",
    "is_module",
    "modules_of",
    "optimized",
    "plan_of",
    "rank_name",
]

DIRECTORY = "training_state"
SKELETON = "state.json"
TENSORS = "state"
OWN = "own"
"""Begins the names of tensors that a process has for itself."""
PAIRS = (
    ("state_dict", "load_state_dict"),
    ("get_state", "set_state"),
    ("getstate", "setstate"),
)
"""How objects give their state, and how they take it."""


class StatePlan(NamedTuple):
    """What this process will copy and write; it refers to the tensors themselves."""

    layouts: Sequence[Layout]
    documents: Mapping[str, Any]
    """JSON files by name."""
    is_sharded: bool = False
    """Whether other processes have further parts of the tensors."""

    @property
    def size_bytes(self) -> int:
        """About what the files will take."""
        return sum(len(one.header) + one.size_bytes for one in self.layouts)

    def staged(self, staging: Staging) -> Staged:
        """Copy everything; from here on the run may go on."""
        files = staging.stage(self.layouts) if self.layouts else []
        return Staged(files, self.documents)


class Staged(NamedTuple):
    """A copy of a state, good until the memory is used for the next."""

    files: Sequence[tuple[Layout, memoryview]]
    documents: Mapping[str, Any]

    def write(self, directory: str) -> None:
        """Write it into the folder below a checkpoint's directory; from whichever thread.

        Raises:
            OSError: The disk is full, or a file of the trainer's own is in the way.
        """
        folder = os.path.join(directory, DIRECTORY)
        for layout, content in self.files:
            parent = os.path.dirname(layout.name)
            if parent:
                os.makedirs(os.path.join(folder, parent), exist_ok=True)
            write_staged(folder, layout, content)
        for name, document in self.documents.items():
            write_file(os.path.join(folder, name), msgspec.json.encode(document))


def plan_of(training: TrainingState, *, rank: int = 0, size: int = 1) -> StatePlan:
    """Take a state apart; nothing is copied.

    Args:
        training: The state.
        rank: Of this process among those that train together.
        size: How many these are.

    Raises:
        CheckpointError: Something of it cannot be kept; the message says what and where.
    """
    modules = {
        name: parts_of(module, trainable_only=training.trainable_only and name != EMA)
        for name, module in modules_of(training).items()
    }
    rest = _rest_of(training, modules)
    tensors, skeleton = flatten(rest, TENSORS)
    files = {name: parts.tensors for name, parts in modules.items()}
    aliases = {name: parts.aliases for name, parts in modules.items()}
    if any(sharded_in(file.values()) for file in (*files.values(), tensors)):
        own = {name: rest.pop(name) for name in ("extra", "accumulated")}
        tensors, skeleton = flatten(rest, TENSORS)
        common = {SKELETON: {"aliases": aliases, "rest": skeleton, "sharded": size}}
        return _sharded(files | {TENSORS: tensors}, common, own, rank, size)
    if rank:
        return _own(
            {name: rest[name] for name in ("extra", "gradients", "accumulated")}, rank, size
        )
    layouts = [layout_of(f"{name}.safetensors", file) for name, file in files.items()]
    if tensors:
        layouts.append(layout_of(f"{TENSORS}.safetensors", tensors))
    return StatePlan(layouts, {SKELETON: {"aliases": aliases, "rest": skeleton}})


def rank_name(rank: int) -> str:
    """Return what the files of a process are called."""
    return f"rank-{rank:05d}"


def _sharded(
    files: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
    own: Mapping[str, Any],
    rank: int,
    size: int,
) -> StatePlan:
    """Plan a process's parts of files that all have in common, and its own."""
    mine = _own(own, rank, size)
    layouts = list(mine.layouts)
    for name, tensors in files.items():
        parts, metadata = own_parts(tensors, is_first=rank == 0)
        if parts:
            layouts.append(layout_of(f"{name}/{rank_name(rank)}.safetensors", parts, metadata))
    documents = {**mine.documents, **(common if rank == 0 else {})}
    return StatePlan(layouts, documents, is_sharded=True)


def _own(own: Mapping[str, Any], rank: int, size: int) -> StatePlan:
    """Plan what a process has for itself."""
    tensors, skeleton = flatten(own, OWN)
    name = rank_name(rank)
    layouts = [layout_of(f"{name}.safetensors", tensors)] if tensors else []
    return StatePlan(layouts, {f"{name}.json": {"size": size, "own": skeleton}})


def modules_of(training: TrainingState) -> dict[str, Any]:
    """Return all modules by the names of their files."""
    modules = {name or "model": unwrapped(module) for name, module in named(training.model).items()}
    if is_module(training.ema):
        modules[EMA] = unwrapped(training.ema)
    return modules


def is_module(value: Any) -> bool:
    return hasattr(value, "named_parameters") and hasattr(value, "load_state_dict")


def _rest_of(training: TrainingState, modules: Mapping[str, ModuleParts]) -> dict[str, Any]:
    """Return everything that has no file of its own."""
    models = {name: one for name, one in modules_of(training).items() if name != EMA}
    names = parameter_names(models)
    optimizers = named(training.optimizer)
    rest: dict[str, Any] = {
        "optimizer": {name: one.state_dict() for name, one in optimizers.items()},
        "optimized": {name: optimized(one, names) for name, one in optimizers.items()},
        "extra": {name: _given(one) for name, one in training.extra.items()},
        "objects": {name: parts.objects for name, parts in modules.items()},
        "accumulated": training.accumulated,
        "gradients": {},
    }
    for component in ("scheduler", "scaler", "ema"):
        parts = named(getattr(training, component))
        rest[component] = {
            name: one.state_dict() for name, one in parts.items() if not is_module(one)
        }
    if training.accumulated != 0:
        rest["gradients"] = {name: gradients_of(model) for name, model in models.items()}
    return rest


def optimized(optimizer: Any, names: Mapping[int, str]) -> list[list[str]]:
    """Return the names of an optimizer's parameters, by group; ``""`` for those of no model."""
    groups = getattr(optimizer, "param_groups", ())
    return [[names.get(id(one), "") for one in group["params"]] for group in groups]


def _given(value: Any) -> Any:
    """Return what an object says of itself, or the value that it is."""
    for give, take in PAIRS:
        if hasattr(value, give) and hasattr(value, take):
            return getattr(value, give)()
    return value
