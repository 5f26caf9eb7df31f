"""One connection to our server: how much head it sends, how slowly, and who is told of its end.

Imported only where there is httptools; `plain_connection` is for elsewhere.
"""

from __future__ import annotations

import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gen_worker.runtime.http.exchange import CONNECTION

if TYPE_CHECKING:
    from gen_worker.runtime.http.exchange import Express, Leaver

    Headers = tuple[tuple[bytes, bytes], ...]

__all__ = ["Connection"]

_MAX_HEAD_BYTES = 64 * 1024
_MAX_HEADERS = 100

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


@lru_cache(maxsize=8)
def _lines_of(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class Connection(HttpToolsProtocol):
    """A connection whose heads are bounded, and whose requests have to keep coming."""

    # The first request is due with the connection.
    _is_unfinished = True
    _is_in_head = True
    _has_begun = False
    _has_too_many = False
    _held: Any = None
    """A request whose body may have come with its head."""
    _head_bytes = 0

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
        self._has_begun = False
        super().data_received(data)
        if self._held is not None:  # its body is still on its way
            self._start_held()
        if self._is_unfinished:
            self._heard_at = time.monotonic()
            # The parser keeps what belongs to no whole header, and would keep any amount.
            if self._is_in_head and not self._has_begun:
                self._head_bytes += len(data)
                if self._head_bytes > _MAX_HEAD_BYTES:
                    self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_unfinished = self._is_in_head = self._has_begun = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._has_too_many = True
            raise ValueError  # the parser then refuses the whole request

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self.scope["extensions"] = self._extensions
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_unfinished = False
        super().on_message_complete()
        if self._held is not None:
            self._start_held()

    # What came in one piece may be answered without a task; see `exchange.Express`.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._express is None or self.flow.write_paused or cycle.waiting_for_100_continue:
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle
        else:
            self._begin(cycle)

    def _start_held(self) -> None:
        cycle, self._held = self._held, None
        if cycle.more_body:
            super()._start_asgi_task(cycle, self.app)
        else:
            self._begin(cycle)

    def _begin(self, cycle: Any) -> None:
        assert self._express is not None, "it is asked before"
        answer = partial(self._answer, cycle)
        leaver = self._express(cycle.scope, bytes(cycle.body), answer)
        if leaver is None:
            super()._start_asgi_task(cycle, self.app)
        else:
            self.leaver = leaver

    def _answer(self, cycle: Any, status: int, body: bytes, more: Headers) -> None:
        """Send a whole answer, as the cycle itself would."""
        self.leaver = None
        if cycle.disconnected or self.transport.is_closing():
            return
        head = [STATUS_LINE[status], _lines_of(tuple(self.server_state.default_headers))]
        if more:
            head.append(_lines_of(more))
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        self.transport.write(b"".join((*head, body)))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def send_400_response(self, msg: str) -> None:
        if self._has_too_many:
            self._refuse(_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def close_if_stalled(self, patience_s: float) -> None:
        """Close the connection if its request has stopped coming."""
        is_silent = time.monotonic() - self._heard_at > patience_s
        if self._is_unfinished and is_silent and not self.flow.read_paused:
            self._refuse(_TOO_SLOW)

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(status + _END)
            self.transport.close()
