"""The step that is taken with the gradients that wait; none is taken with numbers that are none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.distributed.parallel import share_gradients
from gen_worker.trainer.gradient.ranks import added, world_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.trainer.gradient.state import GradientState

__all__ = ["update"]


def update(state: GradientState) -> dict[str, float]:
    """Take a step, and return what it was.

    Losses or gradients that are not finite, as fp16 has them now and then, change nothing; such
    steps are counted. Whether the run goes on then is the job's `nan_policy`.
    """
    parameters = [one for group in state.optimizer.param_groups for one in group["params"]]
    if state.options.parallel == "ddp":
        share_gradients(list(state.modules.values()), parameters)
    gradients = [one.grad for one in parameters if one.grad is not None]
    weight, loss = added([state.weight, float(state.loss)])
    metrics = {"loss": loss / weight} if weight else {}
    rate = float(state.optimizer.param_groups[0]["lr"])
    scaler = state.scaler if gradients else None
    if scaler is not None:
        scaler.unscale_(state.optimizer)
    share = weight / (state.progress["weight_unit"] or 1) / world_size()
    norm = _scaled(parameters, gradients, share, state.options.max_grad_norm)
    if weight and math.isfinite(norm) and math.isfinite(loss):
        _step(state)
    else:
        state.progress["skipped_steps"] += 1
    if scaler is not None:
        scaler.update()
        metrics["train/loss_scale"] = float(scaler.get_scale())
    state.drop_gradients()
    skipped = state.progress["skipped_steps"]
    return {**metrics, "lr": rate, "train/grad_norm": norm, "train/skipped_steps": float(skipped)}


def _scaled(
    parameters: Sequence[Any], gradients: Sequence[Any], weight: float, max_norm: float
) -> float:
    """Make sums into means, and limit them; return the norm that they had."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    if gradients and weight not in (0.0, 1.0):
        torch._foreach_div_(list(gradients), weight)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
    whole = getattr(norm, "full_tensor", None)  # of gradients that are sharded
    return float(whole() if callable(whole) else norm)


def _step(state: GradientState) -> None:
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)
    state.scheduler.step()
    if state.ema is not None:
        state.ema.update()
