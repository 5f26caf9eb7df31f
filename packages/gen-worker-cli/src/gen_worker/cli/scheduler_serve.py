"""`gen-worker scheduler serve`: a scheduler that listens, and says where in its data folder."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gen_worker.cli.collecting import collect_rarely
from gen_worker.cli.failures import UsageError
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.runtime.stopping import StopSignals
from gen_worker.settings import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import BinaryIO

    from gen_worker.runtime.scheduler import Scheduler, SchedulerSettings

__all__ = ["PRESENCE_NAME", "serve"]

PRESENCE_NAME = "scheduler.json"
"""In the data folder, while a scheduler serves it."""


def serve(args: argparse.Namespace) -> int:
    """Take and give requests until a signal says stop."""
    if args.tokens:
        raise UsageError(f"serve takes no {args.tokens[0]!r}: name the folder with --data")
    out, signals = divert_stdout(), StopSignals()
    gc.disable()  # what is imported stays
    with signals.watching():
        try:
            _prepare()
            from gen_worker.runtime.loop import run
            from gen_worker.runtime.ndjson.claim import ListenError
            from gen_worker.runtime.scheduler import SchedulerSettings

            settings = load(
                SchedulerSettings,
                data_dir=args.data or None,
                http=args.http or None,
                workers=args.workers or None,
            )
            try:
                return run(_serve(settings, args, out, signals))
            except ListenError as error:
                raise UsageError(str(error)) from error
        except KeyboardInterrupt:
            return signals.exit_code


def _prepare() -> None:
    """Set up what is to be there before gRPC is imported, and the log."""
    from gen_worker.runtime.entry.settings import EntrySettings
    from gen_worker.runtime.telemetry.logs import install_logging
    from gen_worker.runtime.telemetry.settings import TelemetrySettings

    # By default it tells of each connection that did not end in order.
    os.environ["GRPC_VERBOSITY"] = load(EntrySettings).grpc_verbosity
    install_logging(load(TelemetrySettings).log_format)


async def _serve(
    settings: SchedulerSettings, args: argparse.Namespace, out: BinaryIO, signals: StopSignals
) -> int:
    from gen_worker.runtime.scheduler import Scheduler

    stop = asyncio.Event()
    signals.stops(asyncio.get_running_loop(), stop)
    opening = asyncio.ensure_future(Scheduler.open(settings))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
    scheduler = await opening  # to its end in any case: half a scheduler cannot be closed
    collect_rarely()
    try:
        with _announced(scheduler):
            _greet(scheduler, args, out)
            ended = asyncio.ensure_future(scheduler.ended())
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
    finally:
        stopping.cancel()
        _say("stopping: what is under way goes on when it is started again")
        await scheduler.close()
    _say("stopped")
    return 0 if stop.is_set() else 1


@contextmanager
def _announced(scheduler: Scheduler) -> Iterator[None]:
    """Say in the data folder where the scheduler is, while it is there."""
    from gen_worker.cli.platform.identity import started_at
    from gen_worker.runtime.ndjson.sidecar import identity_of, write_sidecar
    from gen_worker.version import sdk_version

    path = os.path.join(scheduler.settings.folder, PRESENCE_NAME)
    document = {
        "pid": os.getpid(),
        "began": started_at(os.getpid()),
        "http": scheduler.url,
        "workers": scheduler.worker_address,
        "version": sdk_version(),
    }
    identity = write_sidecar(path, document)
    try:
        yield
    finally:
        if identity_of(path) == identity:
            with suppress(OSError):
                os.unlink(path)


def _greet(scheduler: Scheduler, args: argparse.Namespace, out: BinaryIO) -> None:
    _say(f"serving {scheduler.settings.folder} on {scheduler.url}")
    _say(f"workers connect to {scheduler.worker_address}")
    if scheduler.token_file:
        _say(f"every request needs a token, such as the one in {scheduler.token_file}")
    document = {
        "url": scheduler.url,
        "workers": scheduler.worker_address,
        "dir": scheduler.settings.folder,
        "token_file": scheduler.token_file or None,
    }
    if args.json or not os.isatty(out.fileno()):
        ResultPrinter(out, envelope=False).print("result", document)
    _say("ready")


def _say(text: str) -> None:
    print(f"gen-worker scheduler: {text}", file=sys.stderr, flush=True)
