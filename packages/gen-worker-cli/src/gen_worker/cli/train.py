"""Train: run the job of a job spec to its end, in this process.

The trainer class is looked for in this folder and in its src/. What the job writes goes to
./.gen-worker-train/<request_id>, unless --artifacts-dir or TRAINER_ARTIFACTS_DIR say otherwise.

  gen-worker train job.json
  gen-worker train job.json --max-steps 20 --set hyperparams.learning_rate=1e-4
  gen-worker train --resume

At a terminal it shows how far the run is; through a pipe, one line per report on stdout. Ctrl-C and
SIGTERM save a checkpoint first; a second Ctrl-C does not wait for it. Exit codes: 0 completed, 1 it
failed or was stopped, 2 usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import whole_number

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.training.job import OpenJob

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job", nargs="?", metavar="JOB", help="job spec, a JSON file; with --resume the last one"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on at the newest whole checkpoint"
    )
    parser.add_argument(
        "--nproc",
        type=whole_number(1),
        metavar="N",
        default=1,
        help="processes that train together",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only try the job: two steps, saving, loading; exit code 1 when one of them fails",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="in place of the job's")
    parser.add_argument(
        "--artifacts-dir", metavar="DIR", help="where checkpoints, samples and events go"
    )
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one more key of the job, such as dataset.batch_size=4; JSON, else text",
    )
    parser.add_argument("--json", action="store_true", help="print events as JSON lines on stdout")
    parser.add_argument(
        "--verbose", action="store_true", help="also the traceback of what is not the trainer's"
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.training.job import opened

    with opened(args) as job:
        if args.nproc > 1 and not args.check:
            return _launch(job, args)
        out = divert_stdout()
        if args.check:
            from gen_worker.cli.training.checking import check

            return check(job, out, as_json=args.json, is_verbose=args.verbose)
        from gen_worker.cli.training.running import run

        return run(job, out, as_json=args.json, is_verbose=args.verbose)


def _launch(job: OpenJob, args: argparse.Namespace) -> int:
    """Have this command run in each process; the first of them shows how far the run is."""
    import sys

    from gen_worker.trainer.distributed.launch import launch

    settings = job.settings
    words = [settings.job_spec_path, "--artifacts-dir", settings.artifacts_dir]
    words += [f"--{name}" for name in ("json", "verbose") if getattr(args, name)]
    return launch([sys.executable, "-m", "gen_worker.cli", "train", *words], args.nproc)
