"""One client: lines in, answers out."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Literal, cast

from gen_worker.runtime.ndjson import frames
from gen_worker.runtime.ndjson.lines import LineBuffer, LineTooLongError
from gen_worker.runtime.ndjson.presence import has_gone
from gen_worker.runtime.ndjson.request import Request
from gen_worker.runtime.ndjson.turns import Turns

if TYPE_CHECKING:
    from gen_worker.runtime.ndjson.server import Server

__all__ = ["Connection", "Peer"]

Peer = Literal["unix", "tcp", "console"]

_LOOK_S = 0.2


class Connection(asyncio.Protocol):
    """One client. Its requests are answered in turn, cancel frames at once."""

    __slots__ = (
        "_current",
        "_has_eof",
        "_is_deaf",
        "_is_kept",
        "_is_paused",
        "_is_reading",
        "_lines",
        "_loop",
        "_max_frame_bytes",
        "_needs_token",
        "_peer",
        "_server",
        "_timer",
        "_transport",
        "_turns",
        "_watch",
    )

    def __init__(self, server: Server, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._needs_token = server.has_token and peer != "console"
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        limits = server.limits
        self._max_frame_bytes = limits.max_frame_bytes
        self._lines = LineBuffer(self._max_frame_bytes)
        self._current: Request | None = None
        self._turns = Turns(limits.max_waiting_frames, limits.max_waiting_bytes)
        self._is_kept = peer == "console"
        """Whether the connection stays open after the answer."""
        self._is_deaf = False
        """Whether the last frame has come; what follows it is ignored."""
        self._is_reading = True
        self._is_paused = False
        """Whether the client reads its answers too slowly."""
        self._has_eof = False

    # -- what asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        limits = self._server.limits
        self._transport.set_write_buffer_limits(high=limits.write_buffer_bytes)
        self._server.opened(self)
        if self._peer != "console":
            self._timer = self._loop.call_later(limits.frame_timeout_s, self._time_out)
        if self._peer == "tcp":  # a machine that vanishes says nothing
            connected: socket.socket = self._transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        lines = self._lines
        if (
            lines.is_empty
            and not self._turns.waiting
            and data.find(b"\n") == len(data) - 1
            and len(data) <= self._max_frame_bytes
        ):
            self._line(data)  # nearly always
        else:
            lines.feed(data)
            self._take_lines()

    def eof_received(self) -> bool:
        self._has_eof = True
        self._lines.end()
        self._take_lines()
        self._settle()
        self._look()
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._is_deaf = True
        self._stop_timer()
        if self._watch is not None:
            self._watch.cancel()
        self._drop()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._current is not None:
            self._current.pause()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._current is not None:
            self._current.resume()
        else:
            self._advance()
        self._regulate()

    # -- frames ------------------------------------------------------------------------------------

    def _take_lines(self) -> None:
        """Take what has come, as far as there is room for it."""
        while not self._is_deaf and not self._turns.is_full:
            try:
                line = self._lines.take()
            except LineTooLongError as error:
                self._refuse_line(str(error))
                continue
            if line is None:
                break
            self._line(line)
        self._regulate()

    def _line(self, line: bytes) -> None:
        try:
            frame = frames.decode_frame(line)
        except ValueError as error:
            if line.strip():
                self._reply(frames.usage_line(str(error)), keep=self._is_kept)
            return
        if self._timer is not None:
            self._stop_timer()
        if self._needs_token and not self._server.permits(frame.token):
            text = "the frame's `token` is missing or wrong"
            self._reply(frames.usage_line(text, frame.request_id, "auth"), keep=False)
        elif frame.cancel is None and frame.detach is None:
            self._accept(frame, len(line))
        else:
            self._obey(frame)

    def _refuse_line(self, text: str) -> None:
        """Answer a line that is too long; its end may still be on its way."""
        self._reply(frames.usage_line(text), keep=True)
        if not self._is_kept and self._transport is not None:
            # Closing now would lose the answer: a client that still sends would see its connection
            # break. It ends with the client, or with the time a frame may take.
            self._is_deaf = True
            self._transport.write_eof()

    def _accept(self, frame: frames.Frame, size_bytes: int) -> None:
        if self._peer != "console":
            self._is_kept = frame.keep_alive
            self._is_deaf = not frame.keep_alive
        server = self._server
        if server.is_closing or frame.request_id in server.requests:
            self._reply(server.refusal(frame), keep=self._is_kept)
            return
        request = Request(server, self, frame, size_bytes)
        server.requests[request.request_id] = request
        if self._current is None and not self._turns.waiting:
            self._start(request)
        else:
            self._turns.push(request)

    def _obey(self, frame: frames.Frame) -> None:
        """Answer a cancel or detach frame, also while a request is running."""
        self._say(self._server.obey(frame))
        if frame.keep_alive:
            self._is_kept = True
        if not self._is_kept:
            self._is_deaf = True
            self._settle()

    def _reply(self, line: bytes, *, keep: bool) -> None:
        """Answer in turn a frame that became no request."""
        if not keep:
            self._is_deaf = True
        if self.has_answered:
            self._say(line)
            self._settle()
        else:
            self._turns.push(line)

    def _say(self, line: bytes) -> None:
        self.write(line)
        if self._is_paused:
            self._regulate()

    # -- turns -------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        self._current = request
        request.start()
        if self._is_paused:
            request.pause()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finish(self, request: Request, data: bytes) -> None:
        """Write the end of the current request's answer, and go on to the next."""
        if self._transport is not None:
            self._transport.write(data)
        self._server.ended(request)
        self._current = None
        if self._turns.waiting:
            # Not now: the engine is still busy with the one that ended.
            self._loop.call_soon(self._advance)
        elif self._is_deaf or self._has_eof or self._server.is_closing:
            self._settle()

    def _advance(self) -> None:
        """Go on to the next turn, and to frames there was no room for."""
        while self._current is None and self._turns.waiting and not self._is_paused:
            turn = self._turns.pop()
            if isinstance(turn, bytes):
                self.write(turn)
            else:
                self._start(turn)
        self._take_lines()
        self._settle()

    @property
    def has_answered(self) -> bool:
        """Whether every frame that was read has its answer."""
        return self._current is None and not self._turns.waiting

    def _settle(self) -> None:
        """Close once everything is answered and nothing can follow."""
        if self.has_answered:
            if self._is_deaf or self._has_eof:
                self.close()
            self._server.settled()

    def close(self) -> None:
        """Close once what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- departures --------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Cancel what the client leaves behind, but for what it detached itself from."""
        for request in self._turns.keep_detached():
            self._server.ended(request)
        if self._current is not None and not self._current.is_detached:
            self._current.cancel("disconnect")
        self.resume_writing()

    def _time_out(self) -> None:
        seconds = self._server.limits.frame_timeout_s
        if self._is_deaf:
            self.abort()
        else:
            self._reply(frames.usage_line(f"no complete frame within {seconds:g} s"), keep=False)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _regulate(self) -> None:
        """Read on, unless the client is too far ahead with its frames or behind with reading."""
        transport = self._transport
        if transport is None or self._has_eof or self._is_deaf:
            return
        limit = 2 * self._server.limits.write_buffer_bytes
        is_behind = self._is_paused and transport.get_write_buffer_size() > limit
        if self._is_reading and (self._turns.is_full or is_behind):
            self._is_reading = False
            transport.pause_reading()
            self._look()
        elif not self._is_reading and not self._turns.is_full and not is_behind:
            self._is_reading = True
            transport.resume_reading()

    def _look(self) -> None:
        """Watch for a client that goes away where the end of its input does not tell.

        A client may close only its sending side and still read. TCP cannot tell that from leaving,
        so there it counts as leaving for clients that said `keep_alive`: they promise to stay.
        """
        self._watch = None
        transport = self._transport
        if transport is None or transport.is_closing() or self._peer == "console":
            return
        counts_half_closed = self._peer == "tcp" and self._is_kept
        if (self._has_eof and counts_half_closed) or has_gone(
            transport, counts_half_closed=counts_half_closed
        ):
            transport.abort()
        elif self._current is not None and (self._has_eof or not self._is_reading):
            self._watch = self._loop.call_later(_LOOK_S, self._look)
