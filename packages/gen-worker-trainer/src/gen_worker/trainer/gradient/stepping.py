"""The gradients of a step, micro-batch by micro-batch, and the step that is taken with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.gradient.batches import moved
from gen_worker.trainer.gradient.loss import loss_of

if TYPE_CHECKING:
    from gen_worker.trainer.gradient.state import GradientState
    from gen_worker.trainer.steps import StepContext

__all__ = ["accumulate", "apply"]


def accumulate(trainer: Any, batch: Any, state: GradientState, ctx: StepContext) -> None:
    """Add the gradients of a batch, times its weight, to those that wait."""
    loss = loss_of(trainer.compute_loss(moved(batch, ctx.device), state, ctx))
    (loss.value * float(loss.weight)).backward()
    state.sums.add(loss)
    state.accumulated = (state.accumulated or 0) + 1


def apply(state: GradientState) -> dict[str, float]:
    """Take a step with the gradients that wait, and return what it was."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    parameters = [one for group in state.optimizer.param_groups for one in group["params"]]
    gradients = [one.grad for one in parameters if one.grad is not None]
    metrics = state.sums.means()
    torch._foreach_div_(gradients, state.sums.weight)
    norm = torch.nn.utils.clip_grad_norm_(parameters, state.options.max_grad_norm or float("inf"))
    rate = state.optimizer.param_groups[0]["lr"]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.scheduler.step()
    state.sums.clear()
    state.accumulated = 0
    return {**metrics, "lr": float(rate), "train/grad_norm": float(norm)}
