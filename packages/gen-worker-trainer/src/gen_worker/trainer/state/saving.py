"""A training state as files, and back: `training_state/` in a checkpoint's directory.

model.safetensors   the model's tensors by their names in its `state_dict`; each once
ema.safetensors     of averages that are a module
state.safetensors   all other tensors
state.json          the rest, with the names of those tensors
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.state.modules import ModuleParts, gradients_of, parameter_names, parts_of
from gen_worker.trainer.state.staging import Layout, Staging, layout_of, write_staged
from gen_worker.trainer.state.training_state import EMA, TrainingState, named
from gen_worker.trainer.state.tree import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DIRECTORY",
    "PAIRS",
    "SKELETON",
    "TENSORS",
    "Staged",
    "StatePlan",
    "is_module",
    "modules_of",
    "optimized",
    "plan_of",
]

DIRECTORY = "training_state"
SKELETON = "state.json"
TENSORS = "state"
PAIRS = (
    ("state_dict", "load_state_dict"),
    ("get_state", "set_state"),
    ("getstate", "setstate"),
)
"""How objects give their state, and how they take it."""


class StatePlan(NamedTuple):
    """What will be copied and written; it refers to the tensors themselves."""

    layouts: Sequence[Layout]
    skeleton: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        """About what the files will take."""
        return sum(len(one.header) + one.size_bytes for one in self.layouts)

    def staged(self, staging: Staging) -> Staged:
        """Copy everything; from here on the run may go on."""
        files = staging.stage(self.layouts) if self.layouts else []
        return Staged(files, self.skeleton)


class Staged(NamedTuple):
    """A copy of a state, good until the memory is used for the next."""

    files: Sequence[tuple[Layout, memoryview]]
    skeleton: Mapping[str, Any]

    def write(self, directory: str) -> None:
        """Write it below a checkpoint's directory; from whichever thread.

        Raises:
            OSError: The disk is full, or a file of the trainer's own is in the way.
        """
        folder = os.path.join(directory, DIRECTORY)
        os.mkdir(folder)
        for layout, content in self.files:
            write_staged(folder, layout, content)
        write_file(os.path.join(folder, SKELETON), msgspec.json.encode(self.skeleton))


def plan_of(training: TrainingState) -> StatePlan:
    """Take a state apart; nothing is copied.

    Raises:
        CheckpointError: Something of it cannot be kept; the message says what and where.
    """
    modules = {
        name: parts_of(module, trainable_only=training.trainable_only and name != EMA)
        for name, module in modules_of(training).items()
    }
    tensors, rest = flatten(_rest_of(training, modules), TENSORS)
    layouts = [layout_of(f"{name}.safetensors", parts.tensors) for name, parts in modules.items()]
    if tensors:
        layouts.append(layout_of(f"{TENSORS}.safetensors", tensors))
    aliases = {name: parts.aliases for name, parts in modules.items()}
    return StatePlan(layouts, {"aliases": aliases, "rest": rest})


def modules_of(training: TrainingState) -> dict[str, Any]:
    """Return all modules by the names of their files."""
    modules = {name or "model": module for name, module in named(training.model).items()}
    if is_module(training.ema):
        modules[EMA] = training.ema
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
