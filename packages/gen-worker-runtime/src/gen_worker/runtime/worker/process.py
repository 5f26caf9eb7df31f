"""A worker as a process: signals end it, its exit code says how."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from gen_worker.runtime.worker.identity import check_token
from gen_worker.runtime.worker.options import options_of, outbox_limits_of
from gen_worker.runtime.worker.settings import WorkerSettings
from gen_worker.runtime.worker.worker import Worker
from gen_worker.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from gen_worker.manifest import Manifest
    from gen_worker.spec import FunctionSpec

__all__ = ["metrics_served", "run_worker"]


def run_worker(
    settings: WorkerSettings,
    functions: Iterable[FunctionSpec],
    *,
    manifest: Manifest | None = None,
) -> int:
    """Be a worker until a signal, a command or the loss of every orchestrator ends it.

    Args:
        settings: Where it connects to and how it works.
        functions: What it runs.
        manifest: What its image was built with.

    Returns:
        Exit code of the process.

    Raises:
        SettingsError: There is no orchestrator to connect to, or a setting is not understood.
        AuthError: There is no token, or it is not good by the keys it is to be checked with.
    """
    from gen_worker.runtime.loop import run
    from gen_worker.runtime.telemetry.settings import load_telemetry_settings

    policy = settings.policy()
    check_token(settings)
    options = options_of(settings)
    telemetry = load_telemetry_settings()

    async def main() -> int:
        worker = Worker(
            functions,
            policy,
            options,
            manifest=manifest,
            outbox_limits=outbox_limits_of(settings),
            read_token=read_token,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop, number.name.lower())
        async with AsyncExitStack() as stack:
            if telemetry.warn_loop_blocked_s:
                stack.enter_context(loop_watched(worker, telemetry.warn_loop_blocked_s))
            if telemetry.metrics_addr:
                await stack.enter_async_context(metrics_served(worker, telemetry.metrics_addr))
            _spare_collector()
            return (await worker.run()).code

    try:
        return run(main())
    finally:
        gc.unfreeze()  # libraries may rely on the last collection of a process


def _spare_collector() -> None:
    """Look for garbage only in what comes after this: the modules and the worker stay.

    A look at all of them would hold every job up for as long as a hundred short ones take.
    """
    gc.freeze()
    gc.enable()


def read_token() -> str:
    """Return the token as it is kept now; empty when that cannot be read."""
    try:
        return load(WorkerSettings, on_problem=_ignore).token
    except SettingsError:  # a file that is just being written
        return ""


def _ignore(problem: str) -> None:
    """Pass over it: every problem was reported when the worker began."""


@contextmanager
def loop_watched(worker: Worker, limit_s: float) -> Iterator[None]:
    """Say what keeps the running loop from turning for so many seconds, until the block ends."""
    from gen_worker.runtime.telemetry.stalls import watch_loop

    def function_of(request_id: str) -> str:
        job = worker.jobs.find(request_id)
        return "" if job is None else job.served.spec.name

    watch = watch_loop(limit_s, function_of, worker.telemetry)
    try:
        yield
    finally:
        watch.close()


@asynccontextmanager
async def metrics_served(worker: Worker, address: str) -> AsyncIterator[None]:
    """Answer `/metrics`, `/healthz` and `/readyz` until the block ends.

    Args:
        worker: Whose.
        address: `host:port` or `:port`.

    Raises:
        SettingsError: It is no address.
        ListenError: It is taken or out of reach.
    """
    from gen_worker.runtime.telemetry.listener import Probes, open_metrics_server

    probes = Probes(
        worker.telemetry.metrics.exposition,
        trouble=lambda: _trouble(worker.engine.statistics().stuck_threads),
        unready=lambda: _unready(worker),
    )
    server = open_metrics_server(address, probes)
    is_serving = asyncio.Event()
    task = asyncio.create_task(server.serve(is_serving.set))
    try:
        await is_serving.wait()
        yield
    finally:
        server.stop()
        await task


def _trouble(stuck: int) -> str:
    return f"{stuck} canceled calls do not stop, the log has their names" if stuck else ""


def _unready(worker: Worker) -> str:
    """Return why `worker.is_ready` does not hold."""
    if worker.leaving.has_begun:
        return "it is leaving"
    if not worker.link.is_connected:
        return "no orchestrator is connected"
    return "" if worker.is_ready else "models are on their way"
