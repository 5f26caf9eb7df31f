"""What is due now and then, and what of it a run that is to stop puts off."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.trainer.errors import TrainingCanceled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.trainer.loop.running import Run

__all__ = ["OWED", "Duties", "Duty"]

OWED = "owed"
"""Under which a checkpoint's `runtime` names what was due at its step and was not done by then: it
was put off, or comes after the checkpoint."""


class Duty(NamedTuple):
    """Something that is done after so many steps each."""

    every: int
    """Steps; never for 0."""
    do: Callable[[Run], object]
    """May raise `TrainingCanceled`, in all processes or in none, when it is not to be ended."""
    name: str = ""
    """Of what takes its time: a run that is to stop puts it off, and does it once it is resumed.

    Empty for what is done in any case.
    """


class Duties:
    """Those of one run, in their order."""

    def __init__(self, duties: Iterable[Duty]) -> None:
        self._duties: Sequence[Duty] = [duty for duty in duties if duty.every > 0]

    def do(self, run: Run) -> None:
        """Do what is due after the step that is done.

        Raises:
            TrainingCanceled: Something was put off; `run.owed` names it.
        """
        due = [duty for duty in self._duties if run.step % duty.every == 0]
        for place, (_, do, name) in enumerate(due, 1):
            run.to_come = [later.name for later in due[place:] if later.name]
            if name:
                _do_or_owe(run, do, name)
            else:
                do(run)
        if run.owed:
            raise run.canceled()

    def make_up(self, run: Run, names: Iterable[str]) -> None:
        """Do what was not done before the run was resumed, as far as it still is a duty.

        Raises:
            TrainingCanceled: It is put off once more.
        """
        wanted = set(names)
        for _, do, name in self._duties:
            if name in wanted:
                _do_or_owe(run, do, name)
        if run.owed:
            raise run.canceled()


def _do_or_owe(run: Run, do: Callable[[Run], object], name: str) -> None:
    if not run.is_canceled():
        try:
            do(run)
            return
        except TrainingCanceled:
            pass
    run.owed.append(name)
