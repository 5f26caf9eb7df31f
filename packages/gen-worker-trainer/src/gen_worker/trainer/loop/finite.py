"""What a loss does that is no finite number."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import LossError, StartupContractError
from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.metrics import LOSS, loss_in, nonfinite_word
from gen_worker.trainer.state.training_state import named, training_state_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.trainer.loop.running import Run

__all__ = ["FiniteLoss", "SkippedUpdates"]

SKIPPED = "trainer/skipped_steps"
_log = logging.getLogger("gen_worker.trainer")


class FiniteLoss(Part):
    """Fails a run, or warns. A number is looked at at once.

    A tensor is looked at when something is reported or kept, for that may wait for a GPU: nothing
    of its step is kept before.
    """

    def __init__(self, *, is_fatal: bool) -> None:
        self._is_fatal = is_fatal
        self._unread: list[tuple[int, Any]] = []

    def after_step(self, run: Run) -> None:
        assert run.outcome is not None, "it is what has just ended"
        for result in run.outcome.results:
            loss = loss_in(result.metrics)
            if isinstance(loss, (float, int)):
                if not math.isfinite(loss):
                    self._found(run.attempted, loss)
            elif loss is not None:
                self._unread.append((run.attempted, loss))

    def before_saving(self, run: Run) -> None:
        self._read()

    def report(self, run: Run) -> Mapping[str, float]:
        self._read()
        return {}

    def end(self, run: Run, error: BaseException | None) -> None:
        self._unread.clear()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        for step, loss in unread:
            value = _number(loss)
            if not math.isfinite(value):
                self._found(step, value)

    def _found(self, step: int, loss: float) -> None:
        text = f"{LOSS} of step {step} is {nonfinite_word(loss)}"
        if self._is_fatal:
            raise LossError(
                f"{text}: look at the learning rate and the data, or set nan_policy to 'skip' "
                "or 'warn' to go on"
            )
        _log.warning("%s, and the run goes on", text)


class SkippedUpdates(Part):
    """Keeps the optimizer from stepping on such a loss. Each step waits for its loss, then."""

    name = "skipped"

    def __init__(self) -> None:
        self._count = 0

    def begin(self, run: Run) -> None:
        """Make sure that a step can be left out.

        Raises:
            StartupContractError: The trainer steps its optimizer itself.
        """
        if not callable(getattr(run.trainer, "optimizer_step", None)):
            raise StartupContractError(
                "startup.missing_optimizer_step",
                f"nan_policy is 'skip', and {type(run.trainer).__name__} has no optimizer_step "
                "that could be left out: write one, or set nan_policy to 'fail' or 'warn'",
            )

    def before_update(self, run: Run, results: Sequence[Any]) -> bool:
        losses = [_number(loss_in(one.metrics)) for one in results]
        if not run.world.any(not all(map(math.isfinite, losses))):
            return True
        self._count += 1
        _log.warning("the optimizer does not step at %d: a loss is not finite", run.attempted)
        _drop_gradients(run)
        return False

    def report(self, run: Run) -> Mapping[str, float]:
        return {SKIPPED: float(self._count)} if self._count else {}

    def kept(self) -> Any:
        return self._count

    def restore(self, kept: Any) -> None:
        self._count = kept


def _number(loss: Any) -> float:
    """Return a loss as a number; none is taken for finite, what is no number is reported later."""
    try:
        return 0.0 if loss is None else float(loss)
    except (TypeError, ValueError):
        return 0.0


def _drop_gradients(run: Run) -> None:
    """Have nothing of the step stay, in the trainer's own way if it has one."""
    skip = getattr(run.trainer, "skip_step", None)
    if callable(skip):
        skip(run.state, run.ctx)
        return
    training = training_state_of(run.state)
    optimizers = [] if training is None else list(named(training.optimizer).values())
    for optimizer in [*optimizers, run.ctx.optimizer]:
        if optimizer is not None:
            optimizer.zero_grad()
