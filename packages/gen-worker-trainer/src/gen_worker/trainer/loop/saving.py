"""Has checkpoints kept, and tells of them once they are."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.calling import accepted
from gen_worker.trainer.loop.duties import OWED
from gen_worker.trainer.loop.nonfinite import NONFINITE, nonfinite_in
from gen_worker.trainer.loop.parts import points
from gen_worker.trainer.state.moment import moment_of
from gen_worker.trainer.state.rng import untouched_rng

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gen_worker.trainer.loop.parts import Part
    from gen_worker.trainer.loop.running import Run
    from gen_worker.trainer.protocols import ArtifactWriter

__all__ = ["PARTS", "Saving"]

PARTS = "parts"
"""Under which a checkpoint's `runtime` has what the parts of the run are."""

_log = logging.getLogger("gen_worker.trainer")


class Saving:
    """The checkpoints of one run. Each process calls all methods; the first one reports."""

    def __init__(
        self, run: Run, writer: ArtifactWriter, parts: Sequence[Part], runtime: Mapping[str, Any]
    ) -> None:
        """Prepare.

        Args:
            run: Whose checkpoints these are.
            writer: Keeps them.
            parts: Kept with them.
            runtime: Of the checkpoint that the run goes on from; empty where it begins.
        """
        self.place = runtime.get("cursor")
        """In the data, of the last completed step."""
        self._run = run
        self._writer: Any = writer
        self._parts = [part for part in parts if part.name]
        self._checks = points(parts, "before_saving")
        self._saved_step = run.step
        self._saved_owed = frozenset(runtime.get(OWED, ()))
        self._done: list[str] = []
        self._begin = getattr(writer, "begin_checkpoint", None)
        self._ended = getattr(writer, "ended_checkpoints", None)
        self._note_done = getattr(writer, "note_done", None)

    def keep(self) -> None:
        """Have a checkpoint kept, now or while the run goes on."""
        run = self._run
        run.reporting.phase("checkpoint", run.step)
        self._saved_owed, self._done = self._owed, []
        with run.taking_time(), self._whole() as whole:
            if callable(self._begin):
                self._begin(**whole, metrics=run.metrics)
            else:
                write = self._writer.write_checkpoint
                offered = {"metrics": run.metrics, "runtime": whole.pop("runtime")}
                path = write(**whole, **accepted(write, offered))
                run.reporting.checkpoint(path, run.step)
        self._saved_step = run.step
        self.tell()
        run.reporting.phase("train", run.step)

    def keep_last(self) -> None:
        """Keep what the last checkpoint of a run that is canceled does not know."""
        if (self._saved_step, self._saved_owed) != (self._run.step, self._owed):
            self.keep()
        self.tell(wait=True)

    def done(self, name: str) -> None:
        """Note that a duty is done which the last checkpoint says is not, or does not say.

        It must change nothing that checkpoints keep.
        """
        if self._saved_step != self._run.step or name not in self._saved_owed:
            return
        self._saved_owed -= {name}
        self._done.append(name)
        if callable(self._note_done):
            self._note_done(step=self._saved_step, done=self._done)

    def finalize(self) -> str | None:
        """Keep the final checkpoint; return the path of its main file."""
        self.tell(wait=True)
        run = self._run
        run.reporting.phase("checkpoint", run.step)
        finalize = self._writer.finalize
        with run.taking_time(), self._whole() as whole:
            step, runtime = whole.pop("step"), whole.pop("runtime")
            offered = {"step": step, "metrics": run.metrics, "runtime": runtime}
            path: str | None = finalize(**whole, **accepted(finalize, offered))
        return path

    def tell(self, *, wait: bool = False) -> None:
        """Report those that have reached the disk since, and raise what kept one from it."""
        if self._ended is None:
            return
        with self._run.taking_time() if wait else nullcontext():
            for path, step in self._ended(wait=wait):
                self._run.reporting.checkpoint(path, step)

    def tell_last(self, error: BaseException) -> None:
        """Do so for a run that has failed already, which is what matters then."""
        try:
            self.tell(wait=True)
        except Exception as other:
            if other is not error:
                _log.warning("the last checkpoint of a run that failed was not kept: %s", other)

    @contextmanager
    def _whole(self) -> Iterator[dict[str, Any]]:
        """Give what a checkpoint is made of; what its making draws, the run draws again."""
        run = self._run
        for check in self._checks:
            check(run)
        with untouched_rng() as rng:
            payload = run.trainer.state_dict(run.state)
            if not isinstance(payload, dict):
                raise TypeError(
                    f"state_dict returned {type(payload).__name__}, and has to return a dict of "
                    "what JSON can hold"
                )
            yield {
                "step": run.step,
                "state_payload": payload,
                "trainer": run.trainer,
                "state": run.state,
                "ctx": run.ctx,
                "runtime": self._runtime(rng, nonfinite_in(payload)),
            }

    @property
    def _owed(self) -> frozenset[str]:
        run = self._run
        # A writer that cannot note what is done would have it done twice.
        return frozenset([*run.owed, *(run.to_come if callable(self._note_done) else ())])

    def _runtime(self, rng: Any, nonfinite: list[list[Any]]) -> dict[str, Any]:
        runtime = moment_of(self.place, rng)
        if nonfinite:
            runtime[NONFINITE] = nonfinite
        if self._owed:
            runtime[OWED] = sorted(self._owed)
        if self._parts:
            runtime[PARTS] = {part.name: part.kept() for part in self._parts}
        return runtime
