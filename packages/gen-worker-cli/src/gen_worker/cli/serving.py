"""One run of `gen-worker serve`, from the imported project to the teardown."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gen_worker.cli.describe import CAPABILITIES
from gen_worker.cli.host import chosen_device, local_owner, open_engine, tell_gaps
from gen_worker.errors import WorkerError, classify
from gen_worker.runtime.ndjson import PROTOCOL_VERSION
from gen_worker.runtime.ndjson.address import UnixAddress
from gen_worker.runtime.ndjson.server import Server
from gen_worker.runtime.settings import serve_token
from gen_worker.runtime.telemetry.settings import load_telemetry_settings
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gen_worker.cli.project import Endpoint
    from gen_worker.errors import Failure
    from gen_worker.runtime import Engine
    from gen_worker.runtime.ndjson.address import TcpAddress
    from gen_worker.runtime.ndjson.claim import Claim
    from gen_worker.runtime.stopping import StopSignals

__all__ = ["Serving", "choose_token", "report_failure", "say", "set_up", "watched_loop"]

_GRACE_S = 10.0
_LOG_PATIENCE_S = 0.05


class Serving:
    """A server that boots, answers until it is told to stop, and cleans up."""

    def __init__(
        self,
        args: argparse.Namespace,
        endpoint: Endpoint,
        claim: Claim,
        signals: StopSignals,
        *,
        stdout: int,
    ) -> None:
        self._args = args
        self._endpoint = endpoint
        self._claim = claim
        self._signals = signals
        self._stdout = stdout
        self._exit_code = 0
        self._token = choose_token(
            claim.address,
            "frames need the token in .gen-worker.serve.json",
        )

    async def run(self) -> int:
        """Serve, and return the exit code."""
        self._stop = asyncio.Event()
        self._signals.stops(asyncio.get_running_loop(), self._stop)
        # A file's name in a payload is only for those who could read the file themselves.
        is_private = isinstance(self._claim.address, UnixAddress)
        self._engine = open_engine(self._endpoint, self._args, allow_local_files=is_private)
        self._server = Server(
            self._engine,
            token=self._token,
            owner=local_owner(),
            device=chosen_device(self._endpoint, self._args),
            report=report_failure,
        )
        for spec in self._endpoint.functions:
            tell_gaps(spec)
        try:
            with watched_loop(self._endpoint):
                if not self._args.eager or await self._set_up():
                    await self._answer()
        finally:
            await self._server.close(_GRACE_S)
            await self._engine.close(_GRACE_S)
        say("stopped")
        return self._exit_code

    async def _set_up(self) -> bool:
        """Run every `setup`; return whether to go on."""
        self._exit_code = await set_up(self._engine, self._stop)
        return self._exit_code == 0 and not self._stop.is_set()

    async def _answer(self) -> None:
        await self._server.listen(self._claim.listener)
        functions = sorted(spec.registered_name for spec in self._endpoint.functions)
        say(f"listening on {self._claim.address} (functions: {', '.join(functions)})")
        self._claim.announce(self._sidecar(functions))
        say("ready")
        if not self._args.no_stdin and _is_stdin_for_frames():
            from gen_worker.runtime.ndjson.stdio import attach_stdio

            attach_stdio(self._server, self._input_ended, stdout=self._stdout)
        if self._args.parent_fd is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._args.parent_fd, self._stop.set)
        await self._wait()

    def _input_ended(self, error: OSError | None) -> None:
        if error is not None:  # nobody reads our answers any more
            self._exit_code = 1
        self._stop.set()

    async def _wait(self) -> None:
        """Wait for the word to stop, or until there was no request for too long."""
        limit = self._args.idle_timeout
        while not self._stop.is_set():
            timeout = max(limit - self._server.idle_s, 0.01) if limit else None
            try:
                await asyncio.wait_for(self._stop.wait(), timeout)
            except TimeoutError:
                if self._server.idle_s >= limit:
                    say(f"no request for {limit:g} s")
                    return

    def _sidecar(self, functions: list[str]) -> dict[str, object]:
        document: dict[str, object] = {
            "protocol_version": PROTOCOL_VERSION,
            "gen_worker_version": sdk_version(),
            "pid": os.getpid(),
            "listen": str(self._claim.address),
            "ready_at": time.time(),
            "idle_timeout": self._args.idle_timeout,
            "functions": functions,
            "capabilities": list(CAPABILITIES),
            "endpoint": self._endpoint.name,
            "main_module": self._endpoint.main,
            "root": self._endpoint.root,
        }
        return document | ({"token": self._token} if self._token else {})


@contextmanager
def watched_loop(endpoint: Endpoint) -> Iterator[None]:
    """Say which line of an async function blocks the running loop, until the block ends."""
    limit_s = load_telemetry_settings().warn_loop_blocked_s
    if not limit_s or not any(spec.is_async for spec in endpoint.functions):
        yield
        return
    from gen_worker.runtime.telemetry.stalls import LoopWatch, complaint

    watch = LoopWatch(
        limit_s,
        function_of=lambda request_id: "",  # the line says it
        stalled=lambda stall: say(complaint(stall)),
        turned=lambda stall: say(f"the event loop turns again after {stall.seconds:.1f} s"),
    )
    try:
        yield
    finally:
        watch.close()


async def set_up(engine: Engine, stop: asyncio.Event) -> int:
    """Run every `setup` unless told to stop; return the exit code."""
    setup = asyncio.ensure_future(engine.setup())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((setup, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not setup.done():
        setup.cancel()
        return 0
    error = setup.exception()
    if error is None:
        return 0
    if not isinstance(error, WorkerError):
        import traceback

        traceback.print_exception(error)
    say(f"setup failed: {type(error).__name__}: {error}")
    return classify(error).exit_code


def _is_stdin_for_frames() -> bool:
    """Terminals, pipes and files are read; /dev/null and a closed stdin mean a service."""
    if sys.stdin is None:  # closed: descriptor 0 may be anything by now
        return False
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return os.isatty(0) or not stat.S_ISCHR(mode)


def choose_token(address: TcpAddress | UnixAddress, where: str) -> str:
    """Return what clients must bring: nothing where only this machine can connect.

    Args:
        address: Where the server listens.
        where: What is said of a token that nobody chose.
    """
    if address.is_private:
        return ""
    token = serve_token()
    if not token:
        import secrets

        token = secrets.token_urlsafe(24)
        say(
            f"{address} is reachable from other machines: {where}, "
            "or set GEN_WORKER_SERVE_TOKEN to choose it"
        )
    return token


def report_failure(failure: Failure) -> None:
    """Show what broke, with its traceback. A reader of stderr that stalls stalls nobody."""
    if failure.error_type == "canceled" or not failure.detail:
        return
    if sys.stderr and select.select([], [sys.stderr], [], _LOG_PATIENCE_S)[1]:
        print(failure.detail.rstrip("\n"), file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(f"gen-worker serve: {text}", file=sys.stderr, flush=True)
