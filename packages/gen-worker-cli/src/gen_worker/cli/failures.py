"""How a command that failed tells its user: one line, or one per mistake, and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gen_worker.errors import WorkerError, classify

if TYPE_CHECKING:
    from gen_worker.errors import Failure

__all__ = ["UsageError", "report", "report_failure"]

_USAGE_EXIT = 2


class UsageError(WorkerError, ValueError):
    """The command line, the payload or the project is not as it has to be. Exit code 2."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        """Keep the mistakes apart.

        Args:
            message: What is wrong and how to mend it.
            problems: One line per mistake, when there may be several.
        """
        super().__init__(message)
        self.problems = problems


def report(command: str, error: Exception) -> int:
    """Print an error of a command on stderr and return its exit code.

    Raises:
        Exception: `error` itself, when it is none of ours: that is a defect and needs its
            traceback.
    """
    if not isinstance(error, WorkerError):
        raise error
    for line in _lines(error):
        print(f"gen-worker {command}: {line}", file=sys.stderr)
    return classify(error, origin="input").exit_code


def _lines(error: WorkerError) -> list[str]:
    problems = getattr(error, "problems", ())
    if not problems:
        return [str(error) or type(error).__name__]
    return [str(problem) for problem in problems]


def report_failure(prefix: str, failure: Failure) -> int:
    """Print why a call failed on stderr and return its exit code.

    What the author's code raised is shown with its traceback; everything else in lines that begin
    with `prefix`, one per mistake.
    """
    text = f"{prefix}: {failure.message}"
    if failure.exit_code == _USAGE_EXIT and failure.detail:
        text = "\n".join(f"{prefix}: {line}" for line in failure.detail.splitlines())
    elif failure.error_type != "canceled" and failure.detail:
        text = failure.detail.rstrip("\n")
    elif failure.path and failure.path not in failure.message:
        text = f"{text} - at `{failure.path}`"
    print(text, file=sys.stderr)
    return failure.exit_code
