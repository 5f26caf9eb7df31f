"""One client: lines in, answers out."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import TYPE_CHECKING, cast

from gen_worker.runtime.ndjson import frames
from gen_worker.runtime.ndjson.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.ndjson.server import Server, ServerLimits

__all__ = ["Connection"]


class Connection(asyncio.Protocol):
    """One client. Requests on it are answered one after the other, cancels at once."""

    __slots__ = (
        "_buffer",
        "_current",
        "_has_eof",
        "_is_local",
        "_is_paused",
        "_on_end",
        "_scanned",
        "_server",
        "_timer",
        "_transport",
        "_waiting",
    )

    def __init__(
        self,
        server: Server,
        *,
        is_local: bool,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._server = server
        self._is_local = is_local
        self._on_end = on_end
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._waiting: deque[frames.Frame] = deque()
        self._current: Request | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_eof = False
        self._is_paused = False

    @property
    def _is_console(self) -> bool:
        return self._on_end is not None

    @property
    def limits(self) -> ServerLimits:
        return self._server.limits

    # -- what asyncio calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        limits = self._server.limits
        self._transport.set_write_buffer_limits(high=limits.write_buffer_bytes)
        self._server.opened(self)
        if not self._is_console:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(limits.frame_timeout_s, self._time_out)

    def data_received(self, data: bytes) -> None:
        if not self._accepts_frames:
            return  # version 1: whatever follows the one frame is ignored
        if not self._buffer and data.find(b"\n") == len(data) - 1:
            self._line(data)
            return
        self._buffer += data
        self._split()

    def eof_received(self) -> bool:
        self._has_eof = True
        if self._buffer.strip() and self._accepts_frames:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._line(line)
        if self._current is None:
            self._end_of_input()
            return False
        if self._is_gone():
            self._drop()
            return False
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self._stop_timer()
        self._transport = None
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

    # -- lines -------------------------------------------------------------------------------

    def _split(self) -> None:
        while self._accepts_frames:
            end = self._buffer.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(self._buffer)
                break
            line = bytes(memoryview(self._buffer)[:end])
            del self._buffer[: end + 1]
            self._scanned = 0
            self._line(line)
        if len(self._buffer) > self._server.limits.max_frame_bytes:
            self._refuse_size()

    @property
    def _accepts_frames(self) -> bool:
        """A connection takes one frame, unless the last one asked to keep it open."""
        if self._transport is None or self._transport.is_closing():
            return False
        return self._current is None or self._current.keep_alive or self._is_console

    def _line(self, line: bytes) -> None:
        if line.isspace() or not line:
            return
        if len(line) > self._server.limits.max_frame_bytes:
            self._refuse_size()
            return
        self._stop_timer()
        try:
            frame = frames.decode_frame(line)
        except ValueError as error:
            self._answer(frames.usage_line(str(error)), keep_open=self._current is not None)
            return
        if not self._server.permits(frame.token):
            self._answer(
                frames.usage_line(
                    "the frame's `token` is missing or wrong", frame.request_id, "auth"
                )
            )
        elif frame.cancel is not None:
            self._cancel(frame.cancel.request_id, keep_open=frame.keep_alive)
        elif self._current is not None:
            self._queue(frame)
        else:
            self._start(frame)

    def _refuse_size(self) -> None:
        limit = self._server.limits.max_frame_bytes
        self._buffer.clear()
        self._answer(frames.usage_line(f"the frame has more than {limit} bytes"))

    def _queue(self, frame: frames.Frame) -> None:
        self._waiting.append(frame)
        if len(self._waiting) >= self._server.limits.max_waiting_frames:
            self._set_reading(False)

    def _set_reading(self, enabled: bool) -> None:
        transport = cast("asyncio.ReadTransport | None", self._transport)
        if transport is None or self._has_eof:
            return
        if enabled != transport.is_reading():
            transport.resume_reading() if enabled else transport.pause_reading()

    def _cancel(self, request_id: str, *, keep_open: bool) -> None:
        canceled = self._server.cancel(request_id)
        line = frames.cancel_line(request_id, canceled=canceled)
        self._answer(line, keep_open=keep_open or self._current is not None)

    # -- calls -------------------------------------------------------------------------------

    def _start(self, frame: frames.Frame) -> None:
        server = self._server
        if server.is_closing:
            self._answer(frames.usage_line("the server is stopping", frame.request_id, "canceled"))
            return
        request_id = frame.request_id or server.next_request_id()
        if server.is_running(request_id):
            text = f"request_id {request_id!r} is already running: give every request its own"
            self._answer(frames.usage_line(text, frame.request_id), keep_open=frame.keep_alive)
            return
        request = Request(self, frame, request_id)
        self._current = request
        server.began(request)
        request.start(server)
        if self._is_paused:
            request.pause()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finished(self, request: Request) -> None:
        """The answer of the current request is written."""
        self._server.ended(request)
        self._current = None
        if self._waiting and self._transport is not None:
            frame = self._waiting.popleft()
            self._set_reading(True)
            self._start(frame)
        elif self._has_eof:
            self._end_of_input()
        elif not (request.keep_alive or self._is_console):
            self.close()
        elif self._buffer:
            self._split()

    def _answer(self, line: bytes, *, keep_open: bool = False) -> None:
        self.write(line)
        if not keep_open and not self._is_console:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # -- endings -----------------------------------------------------------------------------

    def _end_of_input(self) -> None:
        if self._on_end is not None:
            self._on_end()
        else:
            self.close()

    def _drop(self) -> None:
        self._waiting.clear()
        if self._current is not None:
            self._current.cancel("disconnect")

    def _time_out(self) -> None:
        seconds = self._server.limits.frame_timeout_s
        self._answer(frames.usage_line(f"no complete frame within {seconds:g} s"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_gone(self) -> bool:
        """Whether the end of input means that nobody waits for the answer any more.

        A client may close only its sending side and still read. A unix socket tells the two apart;
        TCP cannot, so there the end of input counts only for clients that said `keep_alive`, which
        promises to stay until the answer has come.
        """
        if self._is_console:
            return False
        if not self._is_local:
            return self._current is not None and self._current.keep_alive
        peer = self._transport.get_extra_info("socket") if self._transport else None
        if peer is None:
            return True
        poll = select.poll()
        poll.register(peer.fileno(), select.POLLHUP)
        return any(events & select.POLLHUP for _, events in poll.poll(0))
