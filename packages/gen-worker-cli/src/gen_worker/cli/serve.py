"""Keep an endpoint loaded and answer requests over a socket.

Listens on ./.gen-worker.sock unless told otherwise; `gen-worker invoke` talks to it. Frames on
standard input are answered on standard output, and the server then ends with its input.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.options import add_host_options, add_project_options

if TYPE_CHECKING:
    import argparse
    import asyncio

    from gen_worker.cli.project import Endpoint
    from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
    from gen_worker.runtime.ndjson.claim import Claim

__all__ = ["DEFAULT_SOCKET", "address_of", "configure", "main", "open_claim"]

DEFAULT_SOCKET = ".gen-worker.sock"
_GRACE_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    import argparse

    add_project_options(parser)
    add_host_options(parser)
    parser.add_argument(
        "--socket", metavar="ADDR", help=f"unix socket to listen on (default: ./{DEFAULT_SOCKET})"
    )
    parser.add_argument(
        "--listen",
        metavar="ADDR",
        help="tcp://host:port, unix:///path or a path; an empty TCP host means loopback, "
        "and beyond it every frame needs a token",
    )
    parser.add_argument("--no-stdin", action="store_true", help="never read frames from stdin")
    parser.add_argument(
        "--function",
        metavar="NAME",
        action="append",
        default=[],
        help="with --eager, set up only the classes behind these functions (repeatable, commas)",
    )
    parser.add_argument("--eager", action="store_true", help="run every setup before being ready")
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="stop after this long without a request; 0 never stops",
    )
    parser.add_argument(
        "--list-functions", action="store_true", help="list what is served and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --list-functions: as JSON")
    parser.add_argument(
        "--reload", action="store_true", help="start again whenever a file of the project changes"
    )
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    if args.list_functions:
        return _list_functions(args)
    if args.reload:
        from gen_worker.cli.reload import supervise

        return supervise(args)
    from gen_worker.cli.output import divert_stdout

    results = divert_stdout()
    claim = open_claim(args)
    try:
        return _serve(args, claim, results.fileno())
    finally:
        claim.release()


def address_of(args: argparse.Namespace) -> UnixAddress | TcpAddress:
    from gen_worker.runtime.ndjson.address import parse_address

    return parse_address(args.listen or args.socket or DEFAULT_SOCKET)


def open_claim(args: argparse.Namespace) -> Claim:
    from gen_worker.cli.failures import UsageError
    from gen_worker.runtime.ndjson.claim import AddressInUseError, claim, inherit

    try:
        if args.listen_fd is not None:
            return inherit(address_of(args), args.listen_fd)
        return claim(address_of(args))
    except AddressInUseError as error:
        raise UsageError(str(error)) from error


def _serve(args: argparse.Namespace, claim: Claim, stdout: int) -> int:
    from gen_worker.cli.project import open_endpoint
    from gen_worker.runtime.loop import run

    endpoint = open_endpoint(args)
    names = _chosen(args.function, endpoint)
    return run(_Session(args, endpoint, names, claim, stdout).run())


def _chosen(words: list[str], endpoint: Endpoint) -> list[str]:
    """Return the slugs that `--function` names.

    Raises:
        UsageError: One of them is not served here.
    """
    from gen_worker.cli.project import find_function

    names = [name for word in words for name in word.split(",") if name]
    return [find_function(endpoint, name).name for name in names]


class _Session:
    """One run of the server, from boot to teardown."""

    def __init__(
        self,
        args: argparse.Namespace,
        endpoint: Endpoint,
        names: list[str],
        claim: Claim,
        stdout: int,
    ) -> None:
        from gen_worker.cli.host import chosen_device, open_engine
        from gen_worker.runtime.ndjson.server import Server

        self._args = args
        self._endpoint = endpoint
        self._names = names
        self._claim = claim
        self._stdout = stdout
        self._token = _token(claim)
        self._engine = open_engine(endpoint, args, allow_local_files=claim.address.is_private)
        self._server = Server(self._engine, token=self._token, device=chosen_device(endpoint, args))
        self._interrupts = 0

    async def run(self) -> int:
        import asyncio

        stop = asyncio.Event()
        self._watch_signals(stop)
        await self._server.listen(self._claim.listener)
        if self._args.eager and not await self._set_up(stop):
            return 1
        functions = sorted(spec.registered_name for spec in self._endpoint.functions)
        _say(f"listening on {self._claim.address} (functions: {', '.join(functions)})")
        self._claim.announce(self._sidecar(functions))
        _say("ready")
        if self._reads_stdin():
            from gen_worker.runtime.ndjson.stdio import attach_stdio

            attach_stdio(self._server, stop.set, stdout=self._stdout)
        await self._wait(stop)
        await self._server.close(_GRACE_S)
        await self._engine.close(_GRACE_S)
        _say("stopped")
        return 0

    async def _set_up(self, stop: asyncio.Event) -> bool:
        """Run `setup` of what was asked for; a failure is told and ends the server."""
        from gen_worker.errors import classify

        try:
            await self._engine.setup(self._names or None)
        except Exception as error:
            import traceback

            traceback.print_exc()
            _say(f"setup failed: {classify(error).exception}: {error}")
            stop.set()
            await self._engine.close(_GRACE_S)
            return False
        return True

    def _sidecar(self, functions: list[str]) -> dict[str, object]:
        import time

        from gen_worker.cli.describe import CAPABILITIES
        from gen_worker.runtime.ndjson import PROTOCOL_VERSION
        from gen_worker.version import sdk_version

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

    def _reads_stdin(self) -> bool:
        """Terminals, pipes and files are read; /dev/null and a closed stdin mean a service."""
        import stat

        if self._args.no_stdin:
            return False
        try:
            mode = os.fstat(0).st_mode
        except OSError:
            return False
        return os.isatty(0) or not stat.S_ISCHR(mode)

    def _watch_signals(self, stop: asyncio.Event) -> None:
        import asyncio
        import signal

        def on_signal() -> None:
            self._interrupts += 1
            if self._interrupts > 1:
                self._claim.release()
                os._exit(130)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)

    async def _wait(self, stop: asyncio.Event) -> None:
        import asyncio

        limit = self._args.idle_timeout
        while not stop.is_set():
            timeout = max(limit - self._server.idle_s, 0.05) if limit else None
            try:
                await asyncio.wait_for(stop.wait(), timeout)
            except TimeoutError:
                if self._server.idle_s >= limit:
                    _say(f"no request for {limit:g} s")
                    return


def _token(claim: Claim) -> str:
    """Return what frames must carry: nothing where only this machine's user can connect."""
    from gen_worker.runtime.settings import serve_token

    if claim.address.is_private:
        return ""
    token = serve_token()
    if not token:
        import secrets

        token = secrets.token_urlsafe(24)
        _say(
            f"{claim.address} is reachable from other machines: frames need the token in "
            ".gen-worker.serve.json, or set GEN_WORKER_SERVE_TOKEN to choose it"
        )
    return token


def _list_functions(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.project import open_endpoint

    results = divert_stdout()
    endpoint = open_endpoint(args)
    if args.json:
        import msgspec

        from gen_worker.cli.describe import function_entries

        document = {"functions": function_entries(endpoint)}
        results.write(msgspec.json.encode(document) + b"\n")
        return 0
    specs = sorted(endpoint.functions, key=lambda spec: spec.registered_name)
    width = max(len(spec.registered_name) for spec in specs)
    for spec in specs:
        owner = spec.owner.__name__ if spec.owner else spec.python_name
        results.write(f"{spec.registered_name:<{width}}  ({owner})\n".encode())
    return 0


def _say(text: str) -> None:
    print(f"gen-worker serve: {text}", file=sys.stderr, flush=True)
