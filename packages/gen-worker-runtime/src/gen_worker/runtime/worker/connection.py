"""One connection to an orchestrator: the control stream, and two more where both ends split.

An object for each attempt: whatever goes wrong with one cannot touch its successor.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import grpc.aio

from gen_worker.runtime.wire import CHANNEL_OPTIONS, METHODS, MalformedMessageError, decode, encode
from gen_worker.runtime.worker.streams import End, Stream, ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.wire import Message, Registration
    from gen_worker.runtime.worker.addresses import Address
    from gen_worker.runtime.worker.outbox import Outbox, Role

__all__ = ["Connection", "Registrar"]

_log = logging.getLogger("gen_worker.worker")

_REGISTRATION = "registration"
AUXILIARY: tuple[Role, Role] = ("results", "events")
_numbers = itertools.count(1)


class Registrar(Protocol):
    """Says who the worker is."""

    def registration(
        self, *, role: Role, is_heartbeat: bool, stream_started_unix_ms: int
    ) -> Registration: ...


class Connection:
    """Opens the streams to one address, and keeps them until one side has enough."""

    def __init__(
        self,
        address: Address,
        outbox: Outbox,
        registrar: Registrar,
        *,
        token: str,
        splits: bool,
        opened: Callable[[], None],
        heard: Callable[[Message | None], None],
    ) -> None:
        """Prepare a connection.

        Args:
            address: Where to.
            outbox: What is to be said.
            registrar: Who says it.
            token: Bearer token of the worker; empty sends none.
            splits: Whether results and events get streams of their own.
            opened: Called when the worker's registration is written.
            heard: Called with each message of the control stream; None for one that says nothing
                here.
        """
        self._address = address
        self._number = next(_numbers)
        self._outbox = outbox
        self._registrar = registrar
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._splits = splits
        self._opened = opened
        self._heard = heard
        self._streams: dict[Role, Stream] = {}
        self._auxiliary: set[Role] = set()
        self._helpers: asyncio.Task[None] | None = None
        self._is_finishing = False
        self.started_unix_ms = 0

    def wake(self, role: Role) -> None:
        """Write what is new."""
        stream = self._streams.get(role)
        if stream is not None:
            stream.wake()

    def finish(self) -> None:
        """Write what waits, and close the streams from this side; control last."""
        self._is_finishing = True
        for role in AUXILIARY:
            if role in self._streams:
                self._streams[role].finish()
        if self._helpers is None:
            self._finish_control()
        else:
            self._helpers.add_done_callback(self._finish_control)

    def _finish_control(self, _: object = None) -> None:
        if "control" in self._streams:
            self._streams["control"].finish()

    def register(self, *, is_heartbeat: bool) -> None:
        """Say again who the worker is and how it is doing."""
        registration = self._registrar.registration(
            role="control",
            is_heartbeat=is_heartbeat,
            stream_started_unix_ms=self.started_unix_ms,
        )
        self._outbox.control(registration, replaces=_REGISTRATION)

    async def run(self) -> End:
        """Be connected until the control stream ends, and say how it did."""
        self.started_unix_ms = int(time.time() * 1000)
        end = None
        try:
            end = await self._run_stream("control", self._control_opened, self._control_received)
            return end
        finally:
            try:
                if self._helpers is not None:
                    self._helpers.cancel()
                    await ended(self._helpers)
            finally:
                self._ended("control", end)
                self._outbox.forget(_REGISTRATION)  # the next connection begins with a fresh one

    async def _run_stream(
        self, role: Role, opened: Callable[[], None], received: Callable[[bytes], None]
    ) -> End:
        registration = self._registrar.registration(
            role=role,
            is_heartbeat=role != "control",
            stream_started_unix_ms=self.started_unix_ms,
        )
        stream = self._streams[role] = Stream(role, self._outbox, opened=opened, received=received)
        if self._is_finishing:  # told so while it was dialed
            stream.finish()
        try:
            async with open_channel(self._address, self._number) as channel:
                return await stream.run(
                    channel, METHODS[role], self._metadata, encode(registration)
                )
        finally:
            del self._streams[role]

    def _control_opened(self) -> None:
        self._opened()
        if self._splits and not self._is_finishing:
            self._helpers = asyncio.get_running_loop().create_task(self._run_auxiliary())

    def _control_received(self, data: bytes) -> None:
        try:
            message = decode(data)
        except MalformedMessageError:
            message = None
        if message is None and data:  # an empty one only says that somebody is there
            _log.info("a message of the orchestrator is not understood and is ignored")
        self._heard(message)

    async def _run_auxiliary(self) -> None:
        """Have streams for results and events; when one ends, control carries everything."""
        tasks = {
            role: asyncio.ensure_future(
                self._run_stream(role, partial(self._joined, role), _ignored)
            )
            for role in AUXILIARY
        }
        try:
            running = set(tasks.values())
            while running:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if not self._is_finishing:
                    break
        finally:
            for task in tasks.values():
                task.cancel()
            try:
                await ended(*tasks.values())
            finally:  # also when this is canceled again: what they had taken must not be forgotten
                for role, task in tasks.items():
                    self._ended(role, _result_of(task))
                self._outbox.split(False)

    def _ended(self, role: Role, end: object) -> None:
        """Note the end of a stream; one that was closed in order has delivered everything."""
        is_delivered = isinstance(end, End) and end.is_complete
        (self._outbox.arrived if is_delivered else self._outbox.lost)(role)

    def _joined(self, role: Role) -> None:
        self._auxiliary.add(role)
        if len(self._auxiliary) == len(AUXILIARY):
            self._outbox.split(True)


def _result_of(task: asyncio.Future[End]) -> End | None:
    is_result = not task.cancelled() and task.exception() is None
    return task.result() if is_result else None


def open_channel(address: Address, number: int) -> grpc.aio.Channel:
    """Return a channel to an orchestrator; encrypted ones trust what this machine trusts.

    Args:
        address: Where to.
        number: Channels of another number share no TCP connection with it. gRPC would let a new
            one go on over the old one's, which is the very thing that fell silent.
    """
    options = (*CHANNEL_OPTIONS, ("gen_worker.connection", number))
    if not address.uses_tls:
        return grpc.aio.insecure_channel(address.target, options=options)
    import ssl  # some megabytes that a worker without TLS does without

    bundle = ssl.get_default_verify_paths().cafile
    roots = None
    if bundle is not None:
        with open(bundle, "rb") as file:
            roots = file.read()
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.aio.secure_channel(address.target, credentials, options=options)


def _ignored(data: bytes) -> None:
    """Read on: these streams are silent by design, but must be read."""
