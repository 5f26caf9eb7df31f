"""How gradients are made and used, as a job's `hyperparams` say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from gen_worker.trainer.distributed.parallel import Parallel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GradientOptions", "options_of"]

Precision = Literal["fp32", "bf16", "fp16"]

_PRECISIONS: Mapping[str, Precision] = {
    "": "bf16",
    "auto": "bf16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "fp16": "fp16",
    "fp32": "fp32",
    "half": "fp16",
}
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_steps",
    "warmup_ratio",
    "min_lr_ratio",
    "max_grad_norm",
    "micro_batch_size",
    "ema_decay",
)


class GradientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The hyperparameters that every `GradientTrainer` has; derive from it to add your own."""

    learning_rate: float = 1e-4
    lr: float | None = None
    """The same, as others call it."""
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = {}
    """What else the optimizer takes."""
    weight_decay: float = 0.0
    betas: tuple[float, float] | None = None
    eps: float | None = None
    schedule: str = "cosine"
    schedule_options: dict[str, Any] = {}
    """What else the schedule takes."""
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    """Of all steps; where `warmup_steps` is 0."""
    min_lr_ratio: float = 0.0
    """The learning rate at the end, as a part of the highest."""
    max_grad_norm: float = 1.0
    """Greater gradients are scaled down to it; 0: none are."""
    gradient_accumulation_steps: int = 1
    micro_batch_size: int = 0
    """Rows that are on the device at once; 0: the whole batch."""
    oom_retry: bool = True
    """Whether a step for which memory is short is repeated with smaller micro-batches."""
    ema_decay: float = 0.0
    """Of averages of the weights, such as 0.999; 0: there are none."""
    activation_checkpointing: bool = False
    """Whether activations are computed again instead of kept."""
    parallel: Parallel = "ddp"
    """What each of several processes has of the model: a copy, or with `fsdp` a part."""
    trainable_only: bool = True
    """Whether checkpoints leave out parameters that are not trained."""
    dtype: str = ""
    """`fp32`, `bf16` or `fp16`; empty: what the context has."""
    device: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be; every mistake is named."""
        problems = [
            f"{name} must not be negative, it is {getattr(self, name)!r}"
            for name in _NOT_NEGATIVE
            if getattr(self, name) < 0
        ]
        if self.gradient_accumulation_steps < 1:
            problems.append(
                "gradient_accumulation_steps must be at least 1, it is "
                f"{self.gradient_accumulation_steps!r}"
            )
        problems += [
            f"{name} must be below 1, it is {getattr(self, name)!r}"
            for name in ("ema_decay", "warmup_ratio")
            if getattr(self, name) >= 1
        ]
        if self.dtype.strip().lower() not in _PRECISIONS:
            problems.append(f"dtype must be fp32, bf16 or fp16, it is {self.dtype!r}")
        if problems:
            raise ValueError("; ".join(problems))
        if self.lr is not None:
            msgspec.structs.force_setattr(self, "learning_rate", self.lr)

    @property
    def precision(self) -> Precision:
        """What the model computes in."""
        return _PRECISIONS[self.dtype.strip().lower()]

    def warmup_of(self, max_steps: int) -> int:
        """Return the steps of the warm-up of a run."""
        return self.warmup_steps or round(self.warmup_ratio * max_steps)


OptionsT = TypeVar("OptionsT", bound=GradientOptions)


def options_of(
    hyperparams: Mapping[str, Any], kind: type[OptionsT], *, dtype: str = ""
) -> OptionsT:
    """Read a job's hyperparameters.

    Args:
        hyperparams: Those that the options do not name are left to the trainer.
        kind: `GradientOptions`, or a trainer's own that derive from it.
        dtype: Of the context, for hyperparameters that name none.

    Raises:
        ValueError: One has a wrong type or value; the message names it.
    """
    given = {"dtype": dtype, **hyperparams}
    if str(given["dtype"] or "").strip().lower() in ("", "auto"):
        given["dtype"] = dtype
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"hyperparams: {error}") from None
