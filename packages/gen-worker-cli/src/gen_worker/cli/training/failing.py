"""What a person is told of a run that failed: a sentence, or where in their code it did."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["tell"]

_FAILED = 1
_OURS = "gen_worker."
_IMPORTING = ("importlib", "_frozen_importlib")
# What these raise says what is wrong with the job or the trainer; elsewhere it may be our defect.
_JUDGES = (
    "gen_worker.trainer.data.lists",
    "gen_worker.trainer.job",
    "gen_worker.trainer.metrics",
    "gen_worker.trainer.plugin",
)


def tell(error: Exception, *, is_verbose: bool) -> int:
    """Print why a run failed on stderr; return the exit code.

    What the trainer's own code raised is told with its traceback, from its first frame on; so is
    what nobody has foreseen, from ours on.

    Args:
        error: What ended the run.
        is_verbose: Whether everything is.
    """
    frame = None if is_verbose else _beyond_us(error)
    if is_verbose or frame is not None or not _is_foreseen(error):
        trace = frame or error.__traceback__
        print(
            "".join(traceback.format_exception(type(error), error, trace)), end="", file=sys.stderr
        )
    problems = getattr(error, "problems", ()) if isinstance(error, WorkerError) else ()
    for text in map(str, problems or (_sentence(error),)):
        print(f"gen-worker train: {text}", file=sys.stderr)
    return _FAILED


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"there is no module {error.name!r}: run this in the folder of the trainer's project, "
            "and install what it needs"
        )
    text = " ".join(str(error).split())
    if isinstance(error, WorkerError) and text:
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _is_foreseen(error: BaseException) -> bool:
    names = _modules_of(error)
    return isinstance(error, (WorkerError, OSError, ImportError)) or names[-1] in _JUDGES


def _modules_of(error: BaseException) -> list[str]:
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in frames]


def _beyond_us(error: BaseException) -> TracebackType | None:
    """Return the first frame of code that is neither ours nor the import system's.

    None where there is none, and where our own word for it says enough.
    """
    if isinstance(error, WorkerError):
        return None
    found = error.__traceback__
    while found is not None:
        name = str(found.tb_frame.f_globals.get("__name__", ""))
        if not name.startswith((_OURS, *_IMPORTING)):
            return found
        found = found.tb_next
    return None
