"""Lets an engine that loops by itself do one step at a time, when the runtime says so."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Pace", "PacedTrainer", "Save"]


class Save(NamedTuple):
    """The engine is to write a checkpoint, now."""

    directory: Path


class _Ended(NamedTuple):
    error: BaseException | None


class Pace:
    """Two threads of which one goes at a time: the runtime's, and the one the engine runs in.

    Whatever either of them sees of the other's state is what it was between two steps.
    """

    def __init__(self, engine: Callable[[Pace], object]) -> None:
        """Prepare; the engine starts with the first step.

        Args:
            engine: Calls `report` after each step, and returns when it has no more.
        """
        self._engine = engine
        self._orders: queue.SimpleQueue[Save | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Mapping[str, Any] | _Ended] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: _Ended | None = None

    # -- the runtime's side ------------------------------------------------------------------------

    def step(self) -> Mapping[str, Any] | None:
        """Have the engine do a step; return its metrics, None when it has ended before.

        Raises:
            BaseException: What ended the engine.
        """
        if self._ended is None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gen-worker-engine", daemon=True)
            self._thread.start()
        elif self._ended is None:
            self._orders.put(None)
        return self._answer()

    def save(self, directory: Path) -> bool:
        """Have the engine write a checkpoint; False when it is not there to do so.

        Raises:
            BaseException: What kept it from that.
        """
        if self._thread is None or self._ended is not None:
            return False
        self._orders.put(Save(directory))
        return self._answer() is not None

    def _answer(self) -> Mapping[str, Any] | None:
        answer = self._answers.get() if self._ended is None else self._ended
        if not isinstance(answer, _Ended):
            return answer
        self._ended = answer
        if answer.error is not None:
            raise answer.error
        return None

    # -- the engine's side -------------------------------------------------------------------------

    def report(self, metrics: Mapping[str, Any]) -> Save | None:
        """Tell of a step, or that a checkpoint is written; wait for what is next.

        Returns:
            What to write before going on; None to go on.
        """
        self._answers.put(metrics)
        return self._orders.get()

    def _run(self) -> None:
        try:
            self._engine(self)
        except BaseException as error:
            self._answers.put(_Ended(error))
        else:
            self._answers.put(_Ended(None))


class PacedState:
    """What the runtime knows of an engine."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.steps = 0
        self.resume_from: Path | None = None
        """A checkpoint that the engine has written."""
        self.generate_sample: Callable[..., Any] | None = None


class PacedTrainer:
    """The hooks of a trainer whose engine is paced. `run_engine` is what a subclass has.

    The job needs something to count steps with: `"mock_batches": [null], "dataset": {"epochs": 0}`.
    """

    def run_engine(self, pace: Pace, state: PacedState, ctx: Any) -> None:
        """Train, from `state.resume_from` on; called in the engine's thread."""
        raise NotImplementedError

    def setup(self, ctx: Any) -> None: ...

    def configure(self, ctx: Any) -> PacedState:
        state = PacedState(Pace(lambda pace: self.run_engine(pace, state, ctx)))
        return state

    def prepare_batch(self, raw_batch: Any, state: PacedState, ctx: Any) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: PacedState, ctx: Any) -> Any:
        from gen_worker.trainer.steps import StepControlHints, StepResult

        metrics = state.pace.step()
        state.steps += 1
        if metrics is None:  # the engine had no more to do
            return StepResult(control=StepControlHints(stop=True))
        return StepResult(metrics=dict(metrics))

    def state_dict(self, state: PacedState) -> dict[str, Any]:
        return {"steps": state.steps}

    def load_state_dict(self, state: PacedState, payload: dict[str, Any], ctx: Any) -> None:
        state.steps = int(payload["steps"])

    def save_checkpoint(
        self, *, state: PacedState, step: int, output_dir: Path, final: bool, ctx: Any
    ) -> dict[str, Any]:
        directory = output_dir / "engine"
        directory.mkdir()
        return {"engine": "engine"} if state.pace.save(directory) else {}

    def load_checkpoint(
        self, *, state: PacedState, checkpoint_dir: str, payload: dict[str, Any], ctx: Any
    ) -> None:
        directory = Path(checkpoint_dir, "engine")
        state.resume_from = directory if directory.is_dir() else None
