"""One run of `gen-worker serve --http`."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.host import (
    chosen_device,
    local_owner,
    open_engine,
    open_ports,
    published_ports,
    tell_gaps,
)
from gen_worker.cli.serving import (
    choose_token,
    report_failure,
    say,
    set_up,
    watched_loop,
)
from gen_worker.context.local import LocalOutputs
from gen_worker.runtime.http import (
    HttpApp,
    HttpOptions,
    LocalBackend,
    LocalFileRoom,
    LocalModelRoom,
    OneToken,
    open_listener,
    open_local_files,
    parse_http_address,
    serve_app,
    url_of,
)
from gen_worker.runtime.local import StubPublisher
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.ndjson.claim import Claim, ListenError
from gen_worker.runtime.ndjson.sidecar import identity_of, write_sidecar
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.project import Endpoint
    from gen_worker.ports import Ports
    from gen_worker.runtime import Engine
    from gen_worker.runtime.ndjson.sidecar import Identity
    from gen_worker.runtime.stopping import StopSignals

__all__ = ["HttpServing", "open_http_claim"]

_SIDECAR = ".gen-worker.http.json"
_GRACE_S = 10.0


def open_http_claim(text: str, descriptor: int | None) -> Claim:
    """Listen on the address that `--http` names, or take over a socket that does.

    Raises:
        ListenError: It is not to be had.
        ValidationError: It is no address.
    """
    address = parse_http_address(text)
    listener = open_listener(address) if descriptor is None else socket.socket(fileno=descriptor)
    if isinstance(address, TcpAddress):
        address = TcpAddress(address.host, listener.getsockname()[1])
    return Claim(address, listener)


class HttpServing:
    """A server that boots, answers until it is told to stop, and lets what is under way end."""

    def __init__(
        self, args: argparse.Namespace, endpoint: Endpoint, claim: Claim, signals: StopSignals
    ) -> None:
        self._args = args
        self._endpoint = endpoint
        self._claim = claim
        self._signals = signals
        self._exit_code = 0
        self._outputs = LocalOutputs(getattr(args, "output", None))
        self._sidecar = os.path.abspath(_SIDECAR)
        self._token = choose_token(claim.address, f"requests need the token in {_SIDECAR}")

    async def run(self) -> int:
        """Serve, and return the exit code."""
        self._stop = asyncio.Event()
        self._signals.stops(asyncio.get_running_loop(), self._stop)
        ports = self._open_ports(lambda request_id: engine.token_of(request_id))
        engine = open_engine(self._endpoint, self._args, ports=ports)
        for spec in self._endpoint.functions:
            tell_gaps(spec)
        app, backend = self._app(engine, ports)
        backend.is_starting = self._args.eager
        announced: Identity | None = None
        work: set[asyncio.Task[None]] = set()

        def ready() -> None:
            nonlocal announced
            announced = self._announce()
            work.add(asyncio.ensure_future(self._get_ready(engine, backend)))
            if self._args.idle_timeout:
                work.add(asyncio.ensure_future(self._watch_idleness(app)))

        try:
            with watched_loop(self._endpoint):
                await serve_app(app, self._claim.listener, self._stop, ready=ready)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._withdraw(announced)
            await engine.close(_GRACE_S)
            if hasattr(ports.files, "close"):
                ports.files.close()
        say("stopped")
        return self._exit_code

    def _open_ports(self, find_token: Callable[[str], CancelToken | None]) -> Ports:
        # Anybody's web page can make a browser ask, so payloads name no files of this machine.
        ports = open_ports(self._args, allow_local_files=False)
        if self._args.offline:
            return ports
        files = open_local_files(self._outputs.root, ports.events, find_token)
        publisher = StubPublisher(files, ports.events)
        ports = msgspec.structs.replace(ports, files=files, publisher=publisher)
        return published_ports(ports, find_token) if self._args.allow_publish else ports

    def _app(self, engine: Engine, ports: Ports) -> tuple[HttpApp, LocalBackend]:
        device = chosen_device(self._endpoint, self._args)
        functions = self._endpoint.functions
        backend = LocalBackend(
            engine,
            endpoint=self._endpoint.name,
            files=LocalFileRoom(self._outputs),
            models=LocalModelRoom(ports.models, functions, device or "cpu"),  # type: ignore[arg-type]
            device=device,
            report=report_failure,
        )
        options = HttpOptions(
            credentials=OneToken(self._token) if self._token else None,
            is_loopback=isinstance(self._claim.address, TcpAddress) and not self._token,
            owner=local_owner(),
        )
        return HttpApp(backend, options, report=report_failure), backend

    async def _get_ready(self, engine: Engine, backend: LocalBackend) -> None:
        names = sorted(spec.registered_name for spec in self._endpoint.functions)
        say(f"listening on {url_of(self._claim.listener)} (functions: {', '.join(names)})")
        if self._args.parent_fd is not None:
            asyncio.get_running_loop().add_reader(self._args.parent_fd, self._stop.set)
        if self._args.eager:
            self._exit_code = await set_up(engine, self._stop)
            if self._exit_code:
                self._stop.set()
        backend.is_starting = False
        if not self._stop.is_set():
            say("ready")

    async def _watch_idleness(self, app: HttpApp) -> None:
        limit = self._args.idle_timeout
        while app.idle_s < limit:
            await asyncio.sleep(max(limit - app.idle_s, 0.01))
        say(f"no request for {limit:g} s")
        self._stop.set()

    def _announce(self) -> Identity:
        document = {
            "gen_worker_version": sdk_version(),
            "pid": os.getpid(),
            "url": url_of(self._claim.listener),
            "started_at": time.time(),
            "endpoint": self._endpoint.name,
            "root": self._endpoint.root,
        }
        token = {"token": self._token} if self._token else {}
        try:
            return write_sidecar(self._sidecar, document | token)
        except OSError as error:
            raise ListenError(
                f"cannot announce the server in {self._sidecar!r}: {error.strerror}; "
                "start it where that file can be written"
            ) from error

    def _withdraw(self, announced: Identity | None) -> None:
        """Remove the sidecar, unless another server has replaced it."""
        with suppress(OSError):
            if announced is not None and identity_of(self._sidecar) == announced:
                os.unlink(self._sidecar)
