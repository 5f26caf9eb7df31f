"""For trainers that do their steps themselves: seeds, numbers, AdamW, and a checkpoint of a module.

A trainer whose `configure` returns a `TrainingState` needs none of the last: the runtime keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.orchestrated import TrainerAuthContext
from gen_worker.trainer.state.rng import seed_everything
from gen_worker.trainer.state.tree import flatten, unflatten

__all__ = [
    "OptimizerBundle",
    "TrainerAuthContext",
    "build_default_adamw_bundle",
    "load_trainable_module_checkpoint",
    "save_trainable_module_checkpoint",
    "seed_everything",
    "to_float_scalar",
]

_WEIGHTS = "lora.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_SKELETON = "optimizer.json"
_META = "checkpoint_meta.json"
_FORMAT = "lora_safetensors_v1"
_PICKLES = ("lora.pt", "optimizer.pt")
_BETAS = (0.9, 0.999)


class OptimizerBundle(msgspec.Struct, frozen=True):
    """An optimizer and its schedule; None where there is none."""

    optimizer: Any
    scheduler: Any = None


def to_float_scalar(value: Any) -> float:
    """Return a number, or a tensor of one, as a float."""
    for method in ("detach", "item"):
        if callable(getattr(value, method, None)):
            value = getattr(value, method)()
    return float(value)


def build_default_adamw_bundle(
    model_or_params: Any, *, hyperparams: Mapping[str, Any] | None = None
) -> OptimizerBundle:
    """Make AdamW, and with `max_steps` a cosine schedule, after a warm-up if there is one.

    `gen_worker.trainer.optim` has more of both.

    Args:
        model_or_params: A module or parameters; an empty bundle is made of anything else.
        hyperparams: `learning_rate` or `lr`, `weight_decay`, `betas`, `warmup_steps`, `max_steps`.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return OptimizerBundle(None)
    parameters = [one for one in _parameters(model_or_params) if isinstance(one, torch.Tensor)]
    if not parameters:
        return OptimizerBundle(None)
    given = hyperparams or {}
    betas = given.get("betas", _BETAS)
    if not isinstance(betas, (list, tuple)) or len(betas) != 2:
        betas = _BETAS
    optimizer = torch.optim.AdamW(
        parameters,
        lr=float(given.get("learning_rate", given.get("lr", 1e-4))),
        weight_decay=float(given.get("weight_decay", 0.0)),
        betas=(float(betas[0]), float(betas[1])),
    )
    steps, warmup = int(given.get("max_steps", 0)), int(given.get("warmup_steps", 0))
    return OptimizerBundle(optimizer, _schedule(optimizer, steps, warmup) if steps > 0 else None)


def _parameters(given: Any) -> list[Any]:
    if callable(getattr(given, "parameters", None)):
        return list(given.parameters())
    return list(given) if isinstance(given, Iterable) else []


def _schedule(optimizer: Any, steps: int, warmup: int) -> Any:
    from torch.optim import (  # type: ignore[import-not-found,unused-ignore]
        lr_scheduler,
    )

    if warmup <= 0:
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rising = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warmup)
    falling = lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps - warmup))
    return lr_scheduler.SequentialLR(optimizer, [rising, falling], milestones=[warmup])


# -- checkpoints -----------------------------------------------------------------------------------


def save_trainable_module_checkpoint(
    *,
    module: Any,
    optimizer: Any,
    output_dir: str | os.PathLike[str],
    step: int,
    final: bool,
    model_name_or_path: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write what of a module is trained, and the state of its optimizer, without pickles.

    Args:
        module: Of torch.
        optimizer: None keeps none.
        output_dir: Made where there is none.
        step: Completed steps.
        final: Whether it is the last.
        model_name_or_path: The base model.
        metadata: Further facts of what is returned.

    Returns:
        For `save_checkpoint` to return: what `checkpoint_meta.json` has, with `primary_path`.

    Raises:
        ValueError: Nothing of the module is trained.
        CheckpointError: The optimizer has something that cannot be kept.
    """
    trained = _trained(module)
    if not trained:
        raise ValueError("no parameter of the module requires gradients: there is nothing to save")
    folder = os.fspath(output_dir)
    os.makedirs(folder, exist_ok=True)
    _write_tensors(folder, _WEIGHTS, {name: one.detach() for name, one in trained.items()})
    meta: dict[str, Any] = {
        "format": _FORMAT,
        "step": int(step),
        "final": bool(final),
        "primary_path": _WEIGHTS,
        "model_name_or_path": model_name_or_path,
    }
    if optimizer is not None:
        tensors, skeleton = flatten(optimizer.state_dict(), "optimizer")
        _write_tensors(folder, _OPTIMIZER, tensors)
        write_file(os.path.join(folder, _SKELETON), msgspec.json.encode(skeleton))
        meta["optimizer_path"] = _OPTIMIZER
    meta.update(metadata or {})
    write_file(os.path.join(folder, _META), msgspec.json.encode(meta, order="sorted"))
    return meta


def load_trainable_module_checkpoint(
    *, module: Any, optimizer: Any, checkpoint_dir: str | os.PathLike[str]
) -> dict[str, Any]:
    """Put back what `save_trainable_module_checkpoint` has kept, on the devices of now.

    Args:
        module: Whose trained parameters, and buffers if there are, take what has their names.
        optimizer: None leaves the kept state of one where it is.
        checkpoint_dir: Of the checkpoint.

    Returns:
        `loaded`, the names that were put back; `missing`, names of trained parameters that are not
        kept; `unexpected`, kept names of which the module trains none; `optimizer`, whether its
        state was put back.

    Raises:
        UnsafeFileFormat: There are only pickles, which may run code when they are read.
        CheckpointError: There is nothing, or a shape is another.
    """
    from gen_worker.models.reader import read_tensors

    folder = os.fspath(checkpoint_dir)
    path = os.path.join(folder, _WEIGHTS)
    _require(folder, path)
    kept = read_tensors(path)
    trained = _trained(module)
    places = {**dict(module.named_buffers()), **trained}
    loaded = sorted(set(kept) & set(places))
    problems = [
        f"{name!r} is {list(kept[name].shape)}, the module has {list(places[name].shape)}"
        for name in loaded
        if kept[name].shape != places[name].shape
    ]
    if problems:
        raise CheckpointError(f"{path!r} is of another module: {'; '.join(problems)}", path=path)
    import torch  # type: ignore[import-not-found,unused-ignore]

    with torch.no_grad():
        for name in loaded:
            places[name].copy_(kept[name])
    is_loaded = optimizer is not None and _load_optimizer(optimizer, folder)
    return {
        "loaded": loaded,
        "missing": sorted(set(trained) - set(kept)),
        "unexpected": sorted(set(kept) - set(places)),
        "optimizer": is_loaded,
    }


def _require(folder: str, path: str) -> None:
    if os.path.isfile(path):
        return
    pickles = [name for name in _PICKLES if os.path.isfile(os.path.join(folder, name))]
    if pickles:
        raise _unsafe(folder, pickles[0])
    raise CheckpointError(f"{folder!r} has no {_WEIGHTS}: it is no such checkpoint", path=path)


def _unsafe(folder: str, name: str) -> Exception:
    from gen_worker.models.formats import UnsafeFileFormat

    return UnsafeFileFormat(
        f"{os.path.join(folder, name)!r} is a pickle, which may run code when it is read: load it "
        "where it was made with torch.load(..., weights_only=True), and save it with "
        "save_trainable_module_checkpoint",
        files=[name],
    )


def _load_optimizer(optimizer: Any, folder: str) -> bool:
    from gen_worker.models.reader import read_tensors

    skeleton = os.path.join(folder, _SKELETON)
    if not os.path.isfile(skeleton):
        if os.path.isfile(os.path.join(folder, "optimizer.pt")):
            raise _unsafe(folder, "optimizer.pt")
        return False
    tensors = {
        name: one.clone() for name, one in read_tensors(os.path.join(folder, _OPTIMIZER)).items()
    }
    with open(skeleton, "rb") as file:
        optimizer.load_state_dict(unflatten(msgspec.json.decode(file.read()), tensors))
    return True


def _trained(module: Any) -> dict[str, Any]:
    return {name: one for name, one in module.named_parameters() if one.requires_grad}


def _write_tensors(folder: str, name: str, tensors: Mapping[str, Any]) -> None:
    """Write tensors into a file of their own, over one that is there."""
    from gen_worker.trainer.state.staging import Staging, layout_of, write_staged

    path = os.path.join(folder, name)
    if os.path.exists(path):
        os.unlink(path)
    staging = Staging()
    for layout, content in staging.stage([layout_of(name, tensors)]):
        write_staged(folder, layout, content)
