"""What would go wrong with a job, found by trying two steps of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from gen_worker.cli.training.failing import tell
from gen_worker.trainer.check import check_job
from gen_worker.trainer.config import places_of, resolve
from gen_worker.trainer.job_file import load_job_file

if TYPE_CHECKING:
    from gen_worker.cli.training.job import OpenJob

__all__ = ["check"]


def check(job: OpenJob, out: BinaryIO, *, as_json: bool, is_verbose: bool) -> int:
    """Try a job, print what was found, and return the exit code.

    Args:
        job: What to try.
        out: The real stdout.
        as_json: Whether to print a JSON list.
        is_verbose: Whether a job that cannot even be read is told with a traceback.
    """
    settings = job.settings
    try:
        config = resolve(settings, load_job_file(settings.job_spec_path), places_of(settings))
    except Exception as error:
        return tell(error, is_verbose=is_verbose)
    report = check_job(config)
    if as_json:
        from gen_worker.cli.results import ResultPrinter

        ResultPrinter(out, envelope=False).print("result", report.findings)
    else:
        out.write(f"{report}\n".encode())
    return 0 if report.is_ok else 1
