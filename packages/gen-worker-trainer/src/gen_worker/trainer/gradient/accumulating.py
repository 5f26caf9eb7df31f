"""The gradients of a step, added up batch by batch, each in parts that fit on the device."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from gen_worker.errors import is_out_of_memory
from gen_worker.trainer.gradient.batches import moved, rows_of
from gen_worker.trainer.gradient.draws import Draws, Statistics
from gen_worker.trainer.gradient.loss import loss_of
from gen_worker.trainer.gradient.ranks import added, world_size
from gen_worker.trainer.gradient.sums import Sums

if TYPE_CHECKING:
    from gen_worker.trainer.gradient.state import GradientState
    from gen_worker.trainer.steps import StepContext

__all__ = ["Accumulation", "precision_of"]

_log = logging.getLogger("gen_worker.trainer")


class Accumulation:
    """The batches of one step, which are done once more if memory is too short for one of them.

    Gradients of half a batch cannot be told from those that were there before, and a copy of them
    would be as large as the model: so all batches of the step are kept, and the step begins anew.
    """

    def __init__(self, trainer: Any, state: GradientState) -> None:
        self._trainer = trainer
        self._state = state
        # Of a model in parts, all processes do each pass together: none can do one more.
        is_in_parts = world_size() > 1 and state.options.parallel == "fsdp"
        self._may_repeat = state.options.oom_retry and not is_in_parts
        self._statistics = Statistics(state.modules) if self._may_repeat else None
        self._batches: list[tuple[Any, Draws | None]] = []

    def add(self, batch: Any, ctx: StepContext) -> dict[str, Any]:
        """Add the gradients of a prepared batch to those that wait; return what it says of itself.

        Raises:
            torch.OutOfMemoryError: There is no room even for one row.
        """
        if self._statistics is not None and not self._batches:
            self._statistics.keep()
        draws = Draws.of(self._state) if self._may_repeat else None
        self._batches.append((batch, draws))
        sums = self._tried(batch, ctx)
        while sums is None:
            sums = self._repeated(ctx)
        return sums.metrics()

    def end(self) -> None:
        """Forget the step."""
        self._batches = []

    # ----------------------------------------------------------------------------------------------

    def _tried(self, batch: Any, ctx: StepContext) -> Sums | None:
        """Do a batch; None if it has to be done in smaller parts."""
        try:
            return self._forward_backward(batch, ctx)
        except Exception as error:
            if not (is_out_of_memory(error) and self._shrunk(batch)):
                raise
            return None

    def _repeated(self, ctx: StepContext) -> Sums | None:
        """Do all batches of the step once more, as if they had always been this small."""
        _free()  # not where the error is handled: it holds what is to be freed
        self._state.drop_gradients()
        if self._statistics is not None:
            self._statistics.put_back()
        sums = None
        for batch, draws in self._batches:
            assert draws is not None, "only what is kept is repeated"
            draws.put_back(self._state)
            sums = self._tried(batch, ctx)
            if sums is None:
                return None
        return sums

    def _shrunk(self, batch: Any) -> bool:
        """Halve the parts, from here on; False if they are as small as they can be."""
        now = self._part_rows(batch)
        if not self._may_repeat or now < 2:
            _log.error(
                "memory is too short for %d rows: set hyperparams.micro_batch_size or "
                "activation_checkpointing",
                now,
            )
            return False
        size = (now + 1) // 2
        self._state.progress["micro_batch_size"] = size
        _log.warning("memory is short: from here on %d rows are on the device at once", size)
        return True

    def _part_rows(self, batch: Any) -> int:
        """Return how many rows the parts of a batch have at most."""
        limits = (self._state.options.micro_batch_size, self._state.progress["micro_batch_size"])
        return min(filter(None, [rows_of(batch), *limits]), default=0)

    def _forward_backward(self, batch: Any, ctx: StepContext) -> Sums:
        state, sums = self._state, Sums()
        rows, size = rows_of(batch), self._part_rows(batch)
        count = -(-rows // size) if size else 1
        parts = [batch] if count == 1 else self._trainer.split_batch(batch, count)
        for part in parts:
            with precision_of(state, ctx):
                given = self._trainer.compute_loss(moved(part, ctx.device), state, ctx)
            loss = loss_of(given)
            weight = float(loss.weight)
            if weight or world_size() > 1:
                self._backward(loss.value * (weight / self._unit(weight)))
            sums.add(loss, weight)
        state.waiting(sums.loss, sums.weight)
        return sums

    def _unit(self, weight: float) -> int:
        """Return what a weight is divided by before the backward pass, so that fp16 can hold it.

        It is the same for a whole run and all its processes, and a power of two: then no digit of
        a gradient depends on it.
        """
        progress = self._state.progress
        if not progress["weight_unit"]:
            mean = added([weight])[0] / world_size()
            progress["weight_unit"] = 2 ** math.floor(math.log2(max(1.0, mean)))
        return progress["weight_unit"]

    def _backward(self, value: Any) -> None:
        scaler = self._state.scaler
        (value if scaler is None else scaler.scale(value)).backward()


def precision_of(state: GradientState, ctx: StepContext) -> AbstractContextManager[Any]:
    """Return within what the model computes."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    precision = state.options.precision
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    autocast: AbstractContextManager[Any] = torch.autocast(torch.device(ctx.device).type, dtype)
    return autocast


def _free() -> None:
    from gen_worker.models.residency.gpu_memory import Gpus

    Gpus().flush()
