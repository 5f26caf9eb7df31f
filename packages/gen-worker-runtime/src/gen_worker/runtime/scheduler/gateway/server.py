"""The server workers connect to: bytes in and out, no task for a message."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from gen_worker.errors import SettingsError
from gen_worker.runtime.ndjson.address import TcpAddress, parse_address
from gen_worker.runtime.scheduler.gateway.admission import admitted, registration_in
from gen_worker.runtime.scheduler.gateway.session import Session
from gen_worker.runtime.scheduler.gateway.streams import RefusedError, ServedStream
from gen_worker.runtime.scheduler.gateway.values import (
    GatewayOptions,
    GatewayStatistics,
    ListenError,
    Refusal,
    refusal,
)
from gen_worker.runtime.wire import (
    METHODS,
    SERVER_OPTIONS,
    MalformedMessageError,
    Registration,
    decode,
)
from gen_worker.runtime.wire.reports import Outbound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.scheduler.gateway.values import GatewayHandler, Passage, Verify
    from gen_worker.runtime.wire import Message, StreamRole

__all__ = ["Gateway"]

_OPTIONS = (*SERVER_OPTIONS, ("grpc.so_reuseport", 0))
"""Without sharing the port: of two servers on one, each would get some of the streams."""

_ROLES: Mapping[str, StreamRole] = {path: role for role, path in METHODS.items()}
_SAYS = frozenset(Outbound.__args__) - {Registration}
"""What workers say, apart from who they are."""
_DEFAULTS = GatewayOptions()
_LOOK_S = 15.0
"""The most between two looks for workers that are silent or gone."""
_END_S = 5.0
"""For what serves a stream to end after the server did."""

_log = logging.getLogger("gen_worker.scheduler.gateway")


class Gateway:
    """Serves the protocol of workers, and ties the streams of each together. For one event loop."""

    def __init__(
        self,
        listen: str,
        handler: GatewayHandler,
        *,
        verify: Verify | None = None,
        passage: Passage | None = None,
        credentials: grpc.ServerCredentials | None = None,
        options: GatewayOptions = _DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a server.

        Args:
            listen: `host:port`; port 0 takes a free one, and keeps it through `stop` and `start`.
            handler: Told of everything.
            verify: Says who bears a token. Without it workers are who they say, and only those of
                this machine are let in.
            passage: What goes wrong on the way, in tests.
            credentials: Its certificate and key; without them connections are not encrypted.
            options: Limits.
            clock: Seconds that only ever grow.

        Raises:
            ValidationError: `listen` is no address.
            SettingsError: Other machines could connect, and nothing says who they are.
        """
        address = parse_address(f"tcp://{listen}")
        assert isinstance(address, TcpAddress)
        if verify is None and not options.trusts_everyone and not address.is_private:
            problem = (
                f"workers of other machines could connect to {listen!r} and say they are anyone: "
                "check their tokens, or listen on 127.0.0.1"
            )
            raise SettingsError((problem,))
        self._listen = listen
        self._handler = handler
        self._verify = verify
        self._passage = passage
        self._credentials = credentials
        self._options = options
        self._clock = clock
        self._server: grpc.aio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._streams: set[ServedStream] = set()
        self._refused: dict[str, int] = {}
        self.sessions: dict[str, Session] = {}
        """By worker id; those that left stay for a while."""
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        """With what every new stream is refused, such as a hint to the leader."""

    def __repr__(self) -> str:
        return f"<Gateway on {self.address}, {len(self.sessions)} workers>"

    @property
    def address(self) -> str:
        """Where workers connect to, `host:port`."""
        return self._listen

    async def start(self) -> None:
        """Listen, on the same port as before if there was one.

        Raises:
            ListenError: The address is taken, or not this machine's.
        """
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_Methods(self._serve),))
        try:
            if self._credentials is None:
                port = server.add_insecure_port(self._listen)
            else:
                port = server.add_secure_port(self._listen, self._credentials)
        except RuntimeError as error:
            problem = str(error).partition(";")[0]
            message = f"cannot listen on {self._listen}: {problem}"
            raise ListenError(message, address=self._listen) from error
        self._listen = f"{self._listen.rpartition(':')[0]}:{port}"
        await server.start()
        self._server = server
        self._look_later()

    async def stop(self, grace_s: float | None = None) -> None:
        """End every connection and listen no more. Workers go on, and come back.

        Args:
            grace_s: Seconds for streams to end in order, told why; None breaks them. What workers
                were just saying they say again in either case.
        """
        server, self._server = self._server, None
        if server is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if grace_s is not None:
            for stream in list(self._streams):
                stream.end(refusal("stopping", "the scheduler is being stopped"))
        await server.stop(grace_s)
        await self._ended()

    def look(self) -> None:
        """Find workers that are silent, and forget those that are gone. Called by itself."""
        options, now = self._options, self._clock()
        for session in list(self.sessions.values()):
            if session.is_gone:
                if 0 < options.forget_after_s <= now - session.heard_at:
                    del self.sessions[session.worker_id]
            elif 0 < options.silent_after_s and session.has_been_silent(
                now - options.silent_after_s
            ):
                _log.warning("worker %r is silent: its connection is ended", session.worker_id)
                session.break_off(
                    refusal("silent", f"nothing was heard for {options.silent_after_s:g} s")
                )

    def statistics(self) -> GatewayStatistics:
        """Count who is here."""
        return GatewayStatistics(
            connected=sum(session.is_connected for session in self.sessions.values()),
            sessions=len(self.sessions),
            streams=len(self._streams),
            refused=dict(self._refused),
        )

    # Inside.

    def _look_later(self) -> None:
        wait_s = min(_LOOK_S, self._options.silent_after_s / 8 or _LOOK_S)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look_and_later)

    def _look_and_later(self) -> None:
        self._look_later()
        self.look()

    async def _ended(self) -> None:
        """Wait until no stream is served any more."""
        me = asyncio.current_task()
        tasks = [stream.task for stream in self._streams if stream.task is not me]
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)

    async def _serve(
        self, role: StreamRole, first: Any, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        """Serve one call to its end."""
        if self.refusal is not None:
            await context.abort(*self.refusal)
        stream = ServedStream(role, context, self._options.max_unwritten_bytes)
        self._streams.add(stream)
        session: Session | None = None
        try:
            registration = await registration_in(stream, self._options.first_message_s)
            if registration is not None:
                session = await self._join(stream, registration)
                await self._read(stream, session, registration)
        except RefusedError as error:
            self._refuse(stream, error.refusal)
        except asyncio.CancelledError:
            if not stream.is_ending:  # the worker broke it, or the server stops
                raise
            stream.task.uncancel()
        except Exception:
            name = session.worker_id if session is not None else context.peer()
            _log.exception("a %s stream of worker %r failed", role, name)
            self._refuse(stream, refusal("handler_failed", "the scheduler failed at a message"))
        finally:
            stream.is_ending = True
            try:
                if session is not None:
                    self._leave(stream, session)
            finally:
                await self._close(stream)
        if stream.refusal is not None:
            await context.abort(*stream.refusal)

    def _refuse(self, stream: ServedStream, why: Refusal) -> None:
        stream.is_ending, stream.refusal = True, why

    async def _close(self, stream: ServedStream) -> None:
        if stream.refusal is not None:
            word = stream.refusal.details.partition(":")[0]
            self._refused[word] = self._refused.get(word, 0) + 1
        try:
            await stream.end_writing()
        finally:
            self._streams.discard(stream)

    async def _join(self, stream: ServedStream, registration: Registration) -> Session:
        """Return the session a stream belongs to."""
        identity = await admitted(stream, registration, self._verify)
        session = self.sessions.get(identity.worker_id)
        if session is None:
            if len(self.sessions) >= self._options.max_sessions:
                sentence = f"{len(self.sessions)} workers are known, and no more may be"
                raise RefusedError(refusal("too_many_workers", sentence))
            session = Session(identity.worker_id, self._clock())
            self.sessions[identity.worker_id] = session
        session.release_id = identity.release_id
        session.opened(stream)
        return session

    def _leave(self, stream: ServedStream, session: Session) -> None:
        is_lost = session.closed(stream, self._clock())
        try:
            if is_lost:
                reason = "its stream ended" if stream.refusal is None else stream.refusal.details
                self._handler.lost(session, reason)
        except Exception:
            _log.exception("the loss of worker %r was not taken note of", session.worker_id)
        if self._passage is not None:
            self._passage.ended(session, stream.role)

    async def _read(
        self, stream: ServedStream, session: Session, registration: Registration
    ) -> None:
        """Hand on what a worker says, until it or somebody here ends the stream."""
        context, clock = stream.context, self._clock
        session.heard(0, clock())
        await self._pass(stream, session, registration)
        while not stream.is_ending:
            if not session.is_reading:
                await session.may_read()
            data = await context.read()
            if not isinstance(data, bytes):
                return
            session.heard(len(data), clock())
            try:
                message = decode(data)
            except MalformedMessageError as error:
                raise RefusedError(refusal("malformed_message", str(error))) from error
            if message is None:
                session.passed_over()
            elif self._passage is None:
                self._deliver(stream, session, message)
            else:
                await self._pass(stream, session, message)

    async def _pass(self, stream: ServedStream, session: Session, message: Message) -> None:
        async def deliver() -> None:
            self._deliver(stream, session, message)

        if self._passage is None:
            self._deliver(stream, session, message)
        else:
            await self._passage.cross(session, stream.role, message, deliver, is_command=False)

    def _deliver(self, stream: ServedStream, session: Session, message: Message) -> None:
        if type(message) in _SAYS:
            self._handler.heard(session, message)
        elif not isinstance(message, Registration):
            session.passed_over()
        elif stream.role != "control":
            pass  # it said whose stream it is
        elif not message.is_heartbeat:
            self._register(stream, session, message)
        elif session.is_connected:  # also on a second stream, which older workers have for it
            session.registration = message
            self._handler.heartbeat(session, message)

    def _register(self, stream: ServedStream, session: Session, message: Registration) -> None:
        if not session.controls(stream):
            self._take_control(stream, session, message)
        session.registration = message
        self._handler.registered(session, message)

    def _take_control(self, stream: ServedStream, session: Session, message: Registration) -> None:
        """Have commands go to a stream; of two connections the one that was opened last wins."""
        stream.started_unix_ms = message.stream_started_unix_ms
        before = session.control
        if before is not None and not before.is_ending:
            if 0 < stream.started_unix_ms < before.started_unix_ms:
                sentence = f"worker {session.worker_id!r} has opened another since"
                raise RefusedError(refusal("stale_connection", sentence))
            peer = stream.context.peer()
            _log.warning("worker %r connects anew from %s", session.worker_id, peer)
            sentence = f"worker {session.worker_id!r} has connected anew, from {peer}"
            before.end(refusal("replaced", sentence))
        session.connected(stream)
        stream.begin_writing(session, self._passage)


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, serve: Callable[..., Any]) -> None:
        self._serve = serve

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        role = _ROLES.get(details.method)
        return role and grpc.stream_stream_rpc_method_handler(partial(self._serve, role))
