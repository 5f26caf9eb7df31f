"""One job, run in this process and shown meanwhile."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO

from gen_worker.cli.training.failing import tell
from gen_worker.cli.training.following import Follower
from gen_worker.cli.training.progress import Progress
from gen_worker.trainer.runtime import run_training_runtime

if TYPE_CHECKING:
    from gen_worker.cli.training.following import View
    from gen_worker.cli.training.job import OpenJob

__all__ = ["run"]


def run(job: OpenJob, out: BinaryIO, *, as_json: bool, is_verbose: bool) -> int:
    """Train; return the exit code.

    Args:
        job: What to run.
        out: The real stdout.
        as_json: Whether to print events in place of a view.
        is_verbose: Whether a failure is told with its traceback in any case.
    """
    progress = Progress(job.max_steps)
    follower = Follower(_view(job, out, progress, as_json=as_json), progress, on_start=job.remember)
    try:
        code = run_training_runtime(job.settings, observer=follower.take)
    except Exception as error:
        follower.close()
        return tell(error, is_verbose=is_verbose)
    finally:
        follower.close()
    if code != 0 and not job.settings.rank:
        print(f"gen-worker train: {_end_of(progress)}", file=sys.stderr)
    return code


def _view(job: OpenJob, out: BinaryIO, progress: Progress, *, as_json: bool) -> View:
    from gen_worker.cli.training.lines import EventLines, PlainLines

    if as_json:
        return EventLines(out)
    is_seen = os.isatty(out.fileno()) and os.isatty(2) and os.environ.get("TERM") != "dumb"
    if not is_seen or job.settings.rank:  # the first of several processes has the events
        return PlainLines(out)
    from gen_worker.cli.training.live import LiveView

    return LiveView(job.title, progress)


def _end_of(progress: Progress) -> str:
    end = progress.end or {}
    reason = end.get("error") or "stopped"
    return f"{reason} at step {progress.step}; gen-worker train --resume goes on with it"
