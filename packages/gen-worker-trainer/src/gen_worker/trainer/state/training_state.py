"""What a trainer hands over so that its run goes on bit for bit without a line of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["EMA", "TrainingState", "named", "training_state_of"]

EMA = "ema"
"""What the averages are called, if they are a module."""
_TAKEN = (EMA, "state")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TrainingState:
    """All that a training step changes: returned by `configure`, or an attribute or key of that.

    The runtime keeps it in every checkpoint and puts it back, on the devices where it is then,
    after `load_checkpoint` and before the first batch. Whatever else an author has may be added as
    attributes of a subclass; only what is named here is kept.

        def configure(self, ctx):
            model = Net().to(ctx.device)
            return TrainingState(model, torch.optim.AdamW(model.parameters()))
    """

    def __init__(
        self,
        model: Any = None,
        optimizer: Any = None,
        *,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        extra: Any = None,
        trainable_only: bool = False,
    ) -> None:
        """Name what is to be kept. All but `extra` may be a dict of several.

        Args:
            model: A module, or modules by name; each becomes a file of its own.
            optimizer: Has `state_dict` and `load_state_dict`, as the next three.
            scheduler: Of learning rates.
            scaler: Of losses, such as `torch.amp.GradScaler`.
            ema: Averages of weights; a module or anything with the two methods.
            extra: A dict of numbers, text, tensors, lists and dicts, which are put back into it,
                and of objects with the two methods, or `get_state` and `set_state` (a
                `torch.Generator`), or `getstate` and `setstate` (a `random.Random`).
            trainable_only: Keep only parameters that require gradients, and buffers: for models of
                which a small part is trained, and the rest is loaded by `configure`.

        Raises:
            ValueError: A model's name cannot be a file's.
        """
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler
        self.ema = ema
        self.extra: Any = {} if extra is None else extra
        self.trainable_only = trainable_only
        self.accumulated: int | None = None
        """Micro-batches whose gradients wait for the optimizer. Gradients are kept unless this is
        0; None: whatever gradients there are."""
        for name in named(model):
            if name and (not _NAME.fullmatch(name) or name in _TAKEN):
                raise ValueError(
                    f"the model's name {name!r} becomes a file's: use letters, digits, '_', '-' "
                    f"and '.', and none of {', '.join(_TAKEN)}"
                )


def named(value: Any) -> dict[str, Any]:
    """Return the parts of a component by name; a single one is called ``""``."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and not hasattr(value, "state_dict"):
        return {str(name): one for name, one in value.items() if one is not None}
    return {"": value}


def training_state_of(state: Any) -> TrainingState | None:
    """Return what a trainer's state hands over; None when it hands nothing over.

    Raises:
        TypeError: It hands over several.
    """
    if isinstance(state, TrainingState):
        return state
    values = (
        state.values() if isinstance(state, Mapping) else getattr(state, "__dict__", {}).values()
    )
    found = [one for one in values if isinstance(one, TrainingState)]
    if len(found) > 1:
        raise TypeError(
            f"{type(state).__name__} has {len(found)} training states: make one of them, with "
            "dicts of models and optimizers"
        )
    return found[0] if found else None
