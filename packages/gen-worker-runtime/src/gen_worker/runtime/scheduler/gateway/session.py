"""One worker as the gateway sees it, through all its connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from gen_worker.errors import InputTooLargeError
from gen_worker.runtime.scheduler.gateway.values import Refusal, SessionStatistics
from gen_worker.runtime.wire import MAX_RECEIVE_BYTES, Registration, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.scheduler.gateway.streams import ServedStream
    from gen_worker.runtime.wire import Inbound, StreamRole

__all__ = ["Session"]


class Session:
    """One worker. For the loop its gateway runs on."""

    def __init__(self, worker_id: str, heard_at: float) -> None:
        self.worker_id = worker_id
        """As its token says; without tokens, as it says itself."""
        self.release_id = ""
        """Likewise."""
        self.registration = Registration()
        """What it said last of itself, heartbeats included."""
        self.metadata: Mapping[str, str | bytes] = {}
        """Of its last control stream: `authorization` and so on. Not for logs."""
        self.peer = ""
        """Of its last control stream, such as `ipv4:127.0.0.1:43210`."""
        self.connection = 0
        """Counts its connections; what was sent on an earlier one is lost if it did not arrive."""
        self.streams: dict[StreamRole, int] = {}
        """How many of each are open; one that was open once stays, with 0."""
        self.heard_at = heard_at
        """When it said something last, on the gateway's clock."""
        self.sent = self.sent_bytes = 0
        self._heard = self._heard_bytes = self._passed_over = 0
        self._silent_since: float | None = None
        self._open: set[ServedStream] = set()
        self._control: ServedStream | None = None
        self._may_read: asyncio.Event | None = None

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "gone"
        return f"<Session of {self.worker_id!r}, {state}, from {self.peer or 'nowhere'}>"

    @property
    def is_connected(self) -> bool:
        """Whether it is registered and takes commands."""
        return self._control is not None and not self._control.is_ending

    @property
    def is_reading(self) -> bool:
        """Whether what it says is taken."""
        return self._may_read is None

    def send(self, command: Inbound | bytes) -> bool:
        """Have a command written, and tell whether it was taken.

        It is not when the worker is not connected, or does not read what it was sent. A command
        that was taken is lost with its connection if it has not arrived, and never sent on another:
        the next registration tells which requests the worker has. Bytes, a message that is encoded
        already, are written as they are.

        Raises:
            UnencodableMessageError: A field holds what the wire cannot carry.
            InputTooLargeError: No worker would take so long a message.
        """
        control = self._control
        if control is None or control.is_ending:
            return False
        if isinstance(command, bytes):
            return control.send(command, None)
        data = encode(command)
        if len(data) > MAX_RECEIVE_BYTES:
            raise InputTooLargeError(
                size_bytes=len(data),
                max_bytes=MAX_RECEIVE_BYTES,
                source=f"{type(command).__name__} message",
            )
        return control.send(data, command)

    def pause_reading(self) -> None:
        """Take nothing more of what it says, until `resume_reading`.

        One message of each stream may still come. The worker holds its functions back when it
        cannot write, and does not count as silent.
        """
        if self._may_read is None:
            self._may_read = asyncio.Event()

    def resume_reading(self) -> None:
        """Take what it says again."""
        gate, self._may_read = self._may_read, None
        if gate is not None:
            gate.set()

    def close(self, reason: str) -> None:
        """Break its connection, all streams of it; it comes back unless it is refused.

        What it is just saying is lost, as when a network breaks, and said again.

        Args:
            reason: For `lost`, and for its log.
        """
        self.break_off(Refusal(grpc.StatusCode.UNAVAILABLE, reason))

    def end(self, role: StreamRole) -> None:
        """End its streams of one role with the status OK, as if all had been read.

        For tests: a worker that has just said its last word believes it.
        """
        for stream in list(self._open):
            if stream.role == role:
                stream.end()

    def statistics(self) -> SessionStatistics:
        """Count what was said so far."""
        control = self._control
        return SessionStatistics(
            connections=self.connection,
            heard=self._heard,
            heard_bytes=self._heard_bytes,
            passed_over=self._passed_over,
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            unwritten=control.unwritten if control is not None else 0,
            unwritten_bytes=control.unwritten_bytes if control is not None else 0,
        )

    # For the gateway.

    @property
    def is_gone(self) -> bool:
        """Whether no stream is open."""
        return not self._open

    def break_off(self, refusal: Refusal) -> None:
        """End all streams, saying why."""
        for stream in list(self._open):
            stream.end(refusal)

    def opened(self, stream: ServedStream) -> None:
        """Take in a stream that said whose it is."""
        self._open.add(stream)
        self.streams[stream.role] = self.streams.get(stream.role, 0) + 1

    def connected(self, stream: ServedStream) -> ServedStream | None:
        """Write commands to a stream from now on; return the one they went to before."""
        before, self._control = self._control, stream
        self.connection += 1
        self.metadata = dict(stream.context.invocation_metadata() or ())
        self.peer = stream.context.peer()
        return before

    def controls(self, stream: ServedStream) -> bool:
        """Tell whether commands go to a stream."""
        return self._control is stream

    @property
    def control(self) -> ServedStream | None:
        """The stream commands go to."""
        return self._control

    def closed(self, stream: ServedStream, at: float) -> bool:
        """Let go of a stream, and tell whether the worker is lost with it."""
        self._open.discard(stream)
        self.streams[stream.role] -= 1
        if self._control is not stream:
            return False
        self._control = None
        self.heard_at = at
        return True

    def heard(self, size_bytes: int, at: float) -> None:
        """Note that it said something."""
        self.heard_at = at
        self._heard += 1
        self._heard_bytes += size_bytes

    def passed_over(self) -> None:
        """Note that it said something that means nothing here."""
        self._passed_over += 1

    async def may_read(self) -> None:
        """Wait until what it says is wanted."""
        while (gate := self._may_read) is not None:
            await gate.wait()

    def has_been_silent(self, since: float) -> bool:
        """Tell whether it was silent since then, and still is when this is asked the second time.

        Between the two everything is read that came while this process did not run.
        """
        if not self.is_connected or not self.is_reading or self.heard_at > since:
            self._silent_since = None
            return False
        seen, self._silent_since = self._silent_since, self.heard_at
        return seen == self.heard_at
