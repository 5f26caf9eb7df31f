"""Puts a training state back as it was, or says by name what does not fit; never half of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.state.held import HeldFiles, has_memory_of_its_own
from gen_worker.trainer.state.modules import (
    ModuleParts,
    misfits,
    parameter_names,
    parts_of,
)
from gen_worker.trainer.state.saving import (
    DIRECTORY,
    PAIRS,
    SKELETON,
    TENSORS,
    is_module,
    modules_of,
    optimized,
    rank_name,
)
from gen_worker.trainer.state.sharding import (
    Pieces,
    is_sharded,
    placed_like,
    read_parts,
    sharded_in,
)
from gen_worker.trainer.state.training_state import EMA, TrainingState, named, training_state_of
from gen_worker.trainer.state.tree import unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.distributed.world import World

__all__ = ["restore_training_state"]

_MOST_NAMED = 10
_COMPONENTS = ("optimizer", "scheduler", "scaler", "ema")


def restore_training_state(
    state: Any, checkpoint_dir: str, world: World = ALONE, *, held: HeldFiles | None = None
) -> None:
    """Put what a checkpoint has kept into a trainer's state.

    Args:
        state: From `configure`.
        checkpoint_dir: Of the checkpoint's files.
        world: The processes that train together, as many or as few as when it was made.
        held: What of the files is read already; large parts of it become the state's own.

    Raises:
        CheckpointError: The checkpoint has no such state, or another; all that does not fit is
            named, and nothing is changed then.
    """
    training = training_state_of(state)
    folder = os.path.join(checkpoint_dir, DIRECTORY)
    is_kept = os.path.isfile(os.path.join(folder, SKELETON))
    if training is not None and is_kept:
        _Restoring(training, folder, world, held or HeldFiles()).run()
    elif training is not None:
        raise CheckpointError(
            f"{checkpoint_dir!r} holds no training state, and `configure` returned one: resume "
            "from a checkpoint of this trainer, or begin anew",
            path=folder,
        )
    elif is_kept:
        raise CheckpointError(
            f"{folder!r} holds a training state, and `configure` returned none: return the "
            "TrainingState that the checkpoint was made of",
            path=folder,
        )


class _Restoring:
    def __init__(self, training: TrainingState, folder: str, world: World, held: HeldFiles) -> None:
        self._training = training
        self._folder = folder
        self._held = held
        self._placed = _Placing()
        kept = self._document(SKELETON)
        self._aliases: dict[str, dict[str, str]] = kept["aliases"]
        self._rest: dict[str, Any] = unflatten(kept["rest"], self._tensors(TENSORS))
        self._rest |= self._own(world)
        self._modules = modules_of(training)
        self._models = {name: one for name, one in self._modules.items() if name != EMA}

    def run(self) -> None:
        kept = {name: self._kept(name) for name in self._aliases}
        problems = [*self._problems(kept)]
        if problems:
            more = len(problems) - _MOST_NAMED
            told = "; ".join(problems[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise CheckpointError(
                f"the training state in {self._folder!r} is of another model or setup: {told}",
                path=self._folder,
            )
        for name, module in self._modules.items():
            self._fill(name, module, kept[name])
        for component in _COMPONENTS:
            self._load(component)
        self._load_extra()
        self._load_gradients()
        self._training.accumulated = self._rest["accumulated"]

    # -- what is kept ------------------------------------------------------------------------------

    def _document(self, name: str) -> dict[str, Any]:
        with open(os.path.join(self._folder, name), "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, Any])

    def _own(self, world: World) -> dict[str, Any]:
        """Return what this process had for itself; what the first one had, if they were others."""
        for name in (rank_name(world.rank), rank_name(0)):
            if not os.path.isfile(os.path.join(self._folder, f"{name}.json")):
                continue
            kept = self._document(f"{name}.json")
            if name == rank_name(0) or kept["size"] == world.size:
                own: dict[str, Any] = unflatten(kept["own"], self._tensors(name))
                return own
        return {}

    def _tensors(self, name: str) -> dict[str, Any]:
        """Return the tensors of a file, or of a folder of parts; none where there is neither."""
        path = os.path.join(self._folder, name)
        if os.path.isdir(path):
            return dict(read_parts(path))
        path += ".safetensors"
        if path in self._held:
            return self._held.take(path)
        if not os.path.isfile(path):
            return {}
        from gen_worker.models.reader import read_files

        return read_files([path])[0].tensors

    def _kept(self, name: str) -> ModuleParts:
        objects = self._rest["objects"].get(name, {})
        return ModuleParts(self._tensors(name), self._aliases[name], objects)

    # -- whether it fits ---------------------------------------------------------------------------

    def _problems(self, kept: Mapping[str, ModuleParts]) -> Iterator[str]:
        yield from _unlike("model", kept, self._modules)
        for name, module in self._modules.items():
            if name in kept:
                is_partial = self._training.trainable_only and name != EMA
                wanted = parts_of(module, trainable_only=is_partial)
                yield from (f"{name}: {text}" for text in misfits(kept[name], wanted))
        for component in _COMPONENTS:
            yield from _unlike(component, self._rest[component], self._parts(component))
        yield from _unlike("extra", self._rest["extra"], self._training.extra)
        names = parameter_names(self._models)
        for name, optimizer in named(self._training.optimizer).items():
            before = self._rest["optimized"].get(name)
            now = optimized(optimizer, names)
            if before is not None and before != now:
                yield from _moved(name, before, now)

    def _parts(self, component: str) -> dict[str, Any]:
        parts = named(getattr(self._training, component))
        return {name: one for name, one in parts.items() if not is_module(one)}

    # -- putting it back ---------------------------------------------------------------------------

    def _fill(self, name: str, module: Any, kept: ModuleParts) -> None:
        aliases = {alias: kept.tensors[known] for alias, known in kept.aliases.items()}
        whole = {**kept.tensors, **aliases, **kept.objects}
        current = module.state_dict()
        if sharded_in(current.values()) or any(isinstance(one, Pieces) for one in whole.values()):
            whole = self._placed(whole, current)
        self._call(name, lambda: module.load_state_dict(whole, strict=False))

    def _load(self, component: str) -> None:
        for name, one in self._parts(component).items():
            kept = self._rest[component][name]
            like = one.state_dict()
            if component == "optimizer":
                like = _with_moments(like, kept, one)
            kept = self._placed(kept, like)
            self._call(f"{component} {name}".strip(), lambda o=one, k=kept: o.load_state_dict(k))
            if component == "optimizer":
                _restore_dtypes(one, kept)

    def _load_extra(self) -> None:
        extra = self._training.extra
        for name, kept in self._rest["extra"].items():
            value = extra[name]
            for give, take in PAIRS:
                if hasattr(value, give) and hasattr(value, take):
                    placed = self._placed(kept, getattr(value, give)())
                    self._call(f"extra {name}", lambda v=value, t=take, p=placed: getattr(v, t)(p))
                    break
            else:
                extra[name] = self._placed(kept, value)

    def _load_gradients(self) -> None:
        for name, model in self._models.items():
            kept = self._rest["gradients"].get(name, {})
            for parameter_name, parameter in model.named_parameters():
                gradient = kept.get(parameter_name)
                parameter.grad = None if gradient is None else self._placed(gradient, parameter)

    def _call(self, what: str, load: Any) -> None:
        """Have an object take its state; what it raises is put down to the checkpoint."""
        try:
            load()
        except Exception as error:
            raise CheckpointError(
                f"{what} does not take what {self._folder!r} holds of it: {error}",
                path=self._folder,
            ) from error


def _unlike(what: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words which names are on one side only."""
    for name in wanted:
        if name not in kept:
            yield f"{what} {name!r} is missing" if name else f"the {what} is missing"
    for name in kept:
        if name not in wanted:
            yield (
                f"{what} {name!r} is kept, and not in the state"
                if name
                else (f"the {what} is kept, and not in the state")
            )


def _moved(name: str, before: list[list[str]], now: list[list[str]]) -> Iterator[str]:
    """Yield in words where an optimizer's parameters were others."""
    what = f"optimizer {name!r}" if name else "the optimizer"
    if [len(group) for group in before] != [len(group) for group in now]:
        sizes = [[len(group) for group in groups] for groups in (before, now)]
        yield f"{what} has groups of {sizes[1]} parameters, {sizes[0]} were kept"
        return
    for old, new in zip(chain(*before), chain(*now), strict=True):
        if old != new:
            yield f"{what} has {new!r} where {old!r} was kept"


class _Placing:
    """Puts tensors where others are, in memory of their own."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        """Where tensors are that were given as they are."""

    def __call__(self, kept: Any, current: Any) -> Any:
        """Return a value with its tensors where those of the current one are.

        They are copied, unless they have memory of their own: in a file they are close together,
        and torch reads some kinds of state as if it were aligned.
        """
        if isinstance(kept, Pieces) or is_sharded(current):
            return placed_like(kept, current, getattr(current, "device", "cpu"))
        if hasattr(kept, "device") and hasattr(kept, "to"):
            device = getattr(current, "device", kept.device)
            return kept.to(device, copy=not self._is_free(kept))
        if isinstance(kept, Mapping):
            known = current if isinstance(current, Mapping) else {}
            return {name: self(one, known.get(name)) for name, one in kept.items()}
        if isinstance(kept, (list, tuple)):
            items = list(current) if isinstance(current, (list, tuple)) else []
            items += [None] * (len(kept) - len(items))
            parts = [self(one, like) for one, like in zip(kept, items, strict=False)]
            return tuple(parts) if isinstance(kept, tuple) else parts
        return kept

    def _is_free(self, tensor: Any) -> bool:
        """Tell whether a tensor can be given as it is; each once."""
        address = tensor.data_ptr()
        if address in self._given or not has_memory_of_its_own(tensor):
            return False
        self._given.add(address)
        return True


def _with_moments(
    like: Mapping[str, Any], kept: Mapping[str, Any], optimizer: Any
) -> Mapping[str, Any]:
    """Return an optimizer's state in which moments that it has not made yet are its parameters.

    Those of parameters that are in parts are in parts, too.
    """
    groups = zip(kept.get("param_groups", ()), getattr(optimizer, "param_groups", ()), strict=False)
    pairs = [pair for old, new in groups for pair in zip(old["params"], new["params"], strict=True)]
    state = dict(like.get("state", {}))
    for index, parameter in pairs:
        if is_sharded(parameter):
            values = kept["state"].get(index, {})
            state[index] = {
                name: parameter
                for name, value in values.items()
                if len(getattr(value, "shape", ())) > 0
            }
    return {**like, "state": state}


def _restore_dtypes(optimizer: Any, kept: Mapping[str, Any]) -> None:
    """Undo that torch gives an optimizer's state the dtype of its parameter, and rounds it."""
    groups = zip(kept.get("param_groups", ()), getattr(optimizer, "param_groups", ()), strict=False)
    for old, new in groups:
        for index, parameter in zip(old["params"], new["params"], strict=True):
            state = optimizer.state.get(parameter, {})
            for name, value in kept["state"].get(index, {}).items():
                current = state.get(name)
                if hasattr(current, "device") and current.dtype != value.dtype:
                    state[name] = value.to(current.device)
