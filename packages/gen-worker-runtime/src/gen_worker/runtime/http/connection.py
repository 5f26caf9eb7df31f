"""One connection to our server: how much head it sends, how slowly, and who is told of its end.

Imported only where there is httptools; `plain_connection` is for elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gen_worker.runtime.http.exchange import CONNECTION

if TYPE_CHECKING:
    from gen_worker.runtime.http.exchange import Express, Leaver

    Headers = tuple[tuple[bytes, bytes], ...]

__all__ = ["Connection"]

_MAX_HEAD_BYTES = 64 * 1024
_MAX_HEADERS = 100

_INVALID = b"HTTP/1.1 400 Bad Request\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


class Connection(HttpToolsProtocol):
    """A connection whose heads are bounded, and whose requests have to keep coming.

    A request that came in one piece is first offered to the application's `express`. Scope,
    cycle, event, task and timer, which uvicorn makes for each request, only the others get.
    """

    # The first request is due with the connection.
    _is_unfinished = True
    _is_in_head = True
    _has_moved = False
    """Whether the last piece brought more than a part of a head, or of what is around a body."""
    _is_too_large = False
    _held: list[bytes] | None = None
    """The body, so far, of a request of which nothing was made yet."""
    _piece_bytes = 0
    _head_bytes = 0
    """Of the pieces since one that brought more; the parser may have kept them all."""
    _unsent_bytes = 0
    _dated: object = None

    leaver: Leaver | None = None
    """Whose client this is; see `exchange.Departures`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._heard_at = time.monotonic()
        self._extensions: dict[str, dict[object, object]] = {CONNECTION: {CONNECTION: self}}
        self._express: Express | None = getattr(self.app, "express", None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._extensions.clear()  # which lead back here
        leaver, self.leaver = self.leaver, None
        if leaver is not None and not leaver.is_over:
            leaver.left()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._has_moved = False
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            self._open()  # the rest of its body is still on its way
        if self._is_unfinished:
            if self._has_moved:
                self._heard_at = time.monotonic()
                self._head_bytes = 0
                return
            # More of a head, or of a trailer: it does not get more time, or a byte now and then
            # would keep it open. The parser keeps what belongs to no whole header, any amount.
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._is_unfinished = self._is_in_head = self._has_moved = True
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:
            return  # in a trailer: nothing of what is asked, and by whom, may be said that late
        self.headers.append((name.lower(), value))
        if len(self.headers) > _MAX_HEADERS:
            self._is_too_large = True
            raise ValueError  # the parser then refuses the whole request

    def on_headers_complete(self) -> None:
        if self._piece_bytes > _MAX_HEAD_BYTES or not self._has_moved:  # it began before this piece
            sizes = (len(name) + len(value) for name, value in self.headers)
            if len(self.url) + sum(sizes) > _MAX_HEAD_BYTES:
                self._is_too_large = True
                raise ValueError
        self._is_in_head = False
        self._has_moved = True
        self._held = []
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if self._express is None or is_busy or self.flow.write_paused:
            self._open()

    def on_body(self, body: bytes) -> None:
        self._has_moved = True
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        self._is_unfinished = False
        if self._held is not None and not self._is_taken():
            self._open()
        if self._held is None:
            super().on_message_complete()
        self._held = None

    def _open(self) -> None:
        """Go on with a request as uvicorn does, from its head on."""
        held, self._held = self._held, None
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        self.scope["extensions"] = self._extensions
        super().on_headers_complete()
        for body in held or ():
            super().on_body(body)

    # What came in one piece may be answered without a task; see `exchange.Express`.

    def _is_taken(self) -> bool:
        """Offer the request to the application, and tell whether it has taken it on."""
        parser, headers, held = self.parser, dict(self.headers), self._held
        assert self._express is not None, "nothing is held without"
        assert held is not None, "it is looked at before"
        if parser.get_method() != b"POST" or b"expect" in headers or parser.should_upgrade():
            return False
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        exchange = _Exchange(self, keep_alive)
        body = held[0] if len(held) == 1 else b"".join(held)
        leaver = self._express(self.url, headers, body, exchange.answer)
        if leaver is None:
            return False
        self.leaver = leaver
        self.cycle = exchange  # type: ignore[assignment]  # as much of one as uvicorn looks at
        return True

    def _head(self, status: int) -> bytes:
        """Return the first lines of an answer; its date changes once a second."""
        headers = self.server_state.default_headers
        if headers is not self._dated:
            self._dated = headers
            self._lines = _lines_of(headers)
        return STATUS_LINE[status] + self._lines

    def _end(self) -> None:
        """Go on after an answer, without a timer: `close_if_stalled` looks for idle connections."""
        if self.pipeline or self.flow.read_paused:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._heard_at = time.monotonic()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_TOO_LARGE if self._is_too_large else _INVALID)

    def close_if_stalled(self, patience_s: float) -> None:
        """Close the connection if its request does not come, or if it is kept for nothing.

        Args:
            patience_s: How long a head may take as a whole, how long a body may pause, and how
                long a client may read nothing of its answer once there is nothing else to do.
        """
        silent_s = time.monotonic() - self._heard_at
        if self.transport.is_closing():  # it waits for the client, which may never read the rest
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes, self._heard_at = unsent_bytes, time.monotonic()
            elif silent_s > patience_s:
                self.transport.abort()
        elif self._is_unfinished:
            if silent_s > patience_s and not self.flow.read_paused:
                self._refuse(_TOO_SLOW)
        elif isinstance(self.cycle, _Exchange) and self.cycle.response_complete:
            if silent_s > self.timeout_keep_alive:
                self.transport.close()

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            if self._is_unanswered():
                self.transport.write(status + _END)
            self.transport.close()

    def _is_unanswered(self) -> bool:
        """Tell whether what is written now would be read as the answer to what comes just now."""
        is_unmade = self._is_in_head or self._held is not None
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return is_unmade
        return self._is_unfinished and not (is_unmade or self.pipeline or cycle.response_started)


class _Exchange:
    """A request that was taken on, and what uvicorn wants to know of it: is it answered yet?"""

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> _Exchange:
        return self

    def set(self) -> None:
        """Nobody waits for more of the request."""

    def answer(self, status: int, body: bytes, more: Headers) -> None:
        """Send a whole answer, as uvicorn's cycle would."""
        connection = self._connection
        transport = connection.transport
        connection.leaver = None
        if self.disconnected or transport.is_closing():
            return
        self.response_complete = True
        kind = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        close = b"" if self.keep_alive else b"connection: close\r\n"
        lines = _lines_of(more) if more else b""
        transport.write(b"".join((connection._head(status), lines, close, kind, body)))
        if not self.keep_alive:
            transport.close()
        connection._end()


def _lines_of(headers: Any) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
