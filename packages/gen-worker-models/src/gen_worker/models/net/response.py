"""The answer to one request: status, headers, and a body that is read as it arrives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gen_worker.errors import DeadlineExceededError
from gen_worker.models.net.errors import BodyTooLargeError, IncompleteBodyError, NetworkError
from gen_worker.models.net.wire import (
    MAX_HEAD_BYTES,
    Head,
    body_length,
    chunk_length,
    head_end,
    parse_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from gen_worker.models.net.connection import Connection
    from gen_worker.models.net.urls import Url

__all__ = ["Response", "read_head"]

_READ_BYTES = 1 << 16


def read_head(connection: Connection, within_s: float) -> tuple[Head, bytearray]:
    """Receive a final head; return it and the bytes of the body that came along.

    Raises:
        NetworkError: The peer closed first, speaks something else or needs more than `within_s`.
    """
    deadline = time.monotonic() + within_s
    ahead = bytearray()
    buffer = memoryview(bytearray(16_384))
    while True:
        while (end := head_end(ahead)) < 0 and len(ahead) <= MAX_HEAD_BYTES:
            count = connection.receive_into(buffer)
            if time.monotonic() > deadline:
                raise NetworkError(f"{connection.peer} took more than {within_s:g} s to answer")
            if not count:
                raise IncompleteBodyError(
                    f"{connection.peer} closed the connection before its answer was complete",
                    expected_bytes=None,
                    received_bytes=len(ahead),
                )
            ahead += buffer[:count]
        if not 0 < end <= MAX_HEAD_BYTES:
            raise NetworkError(f"{connection.peer} sent more than {MAX_HEAD_BYTES} header bytes")
        head = parse_head(bytes(ahead[:end]))
        del ahead[:end]
        if head.status >= 200:
            return head, ahead


class Response:
    """One answer. Close it, or leave its `with` block; a body read to its end frees it too.

    Reading may be done by one thread. Nothing is decompressed.
    """

    def __init__(
        self,
        connection: Connection,
        head: Head,
        ahead: bytearray,
        *,
        url: Url,
        method: str,
        release: Callable[[Connection], None],
        max_bytes: int | None = None,
        deadline: float | None = None,
    ) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        """Names in lower case."""
        self.url = url
        """Where the answer came from, after redirects; `str()` of it is safe to show."""
        length = body_length(head, method)
        self.length = length if length is not None and length >= 0 else None
        """Bytes of the body; None when the server does not say."""
        self.received_bytes = 0
        self._connection: Connection | None = connection
        self._ahead = ahead
        self._release = release
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._is_chunked = length == -1
        self._keeps_alive = head.keeps_alive and length is not None
        self._left = self.length if not self._is_chunked else 0
        self._chunks_seen = 0
        if max_bytes is not None and self.length is not None and self.length > max_bytes:
            self.close()
            raise self._too_large()
        if self._left == 0 and not self._is_chunked:
            self._finish()

    def readinto(self, view: memoryview) -> int:
        """Read the next bytes of the body; return how many, 0 at its end.

        Large views are filled as far as half a second allows.

        Raises:
            IncompleteBodyError: The connection ended before the body did.
            BodyTooLargeError: More bytes than allowed.
            DeadlineExceededError: The time for the whole answer is over.
            NetworkError: The peer is silent or gone.
            CanceledError: The request's token was canceled.
        """
        if self._connection is None or not view:
            return 0
        try:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise DeadlineExceededError(f"{self.url} took too long to answer")
            if self._is_chunked and not self._left and not self._next_chunk():
                return 0
            count = self._take(view if self._left is None else view[: self._left])
            return self._account(count)
        except BaseException:
            self.close()
            raise

    def _account(self, count: int) -> int:
        if not count:
            if self._left is not None:
                raise self._incomplete()
            self._finish()
            return 0
        self.received_bytes += count
        if self._max_bytes is not None and self.received_bytes > self._max_bytes:
            raise self._too_large()
        if self._left is not None:
            self._left -= count
            if not self._left and not self._is_chunked:
                self._finish()
        return count

    def read(self, max_bytes: int | None = None) -> bytes:
        """Read all of the body, or at most its next `max_bytes`; the errors of `readinto`."""
        data = bytearray()
        buffer = memoryview(bytearray(_READ_BYTES))
        while max_bytes is None or len(data) < max_bytes:
            room = _READ_BYTES if max_bytes is None else max_bytes - len(data)
            count = self.readinto(buffer[:room])
            if not count:
                break
            data += buffer[:count]
        return bytes(data)

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(_READ_BYTES):
            yield block

    def close(self) -> None:
        """Give the connection up; harmless when it is back in the pool already."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.url}>"

    def _take(self, view: memoryview) -> int:
        """Take bytes that came with the head first, then from the connection."""
        count = min(len(self._ahead), len(view))
        if count:
            view[:count] = self._ahead[:count]
            del self._ahead[:count]
            return count
        assert self._connection is not None
        return self._connection.receive_into(view, fill=True)

    def _next_chunk(self) -> bool:
        """Read up to the next chunk's bytes; return False after the last."""
        if self._chunks_seen and self._line():
            raise NetworkError(f"{self.url} sent a malformed chunk")
        self._chunks_seen += 1
        self._left = chunk_length(self._line())
        if self._left:
            return True
        while self._line():  # trailers
            continue
        self._finish()
        return False

    def _line(self) -> bytes:
        buffer = memoryview(bytearray(4096))
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > MAX_HEAD_BYTES:
                raise NetworkError(f"{self.url} sent a malformed chunk")
            assert self._connection is not None
            count = self._connection.receive_into(buffer)
            if not count:
                raise self._incomplete()
            self._ahead += buffer[:count]
        line = bytes(self._ahead[:end])
        del self._ahead[: end + 2]
        return line

    def _finish(self) -> None:
        """The body is complete: the connection may serve the next request."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.watch(None)
        if self._keeps_alive and not self._ahead:
            self._release(connection)
        else:
            connection.close()

    def _incomplete(self) -> IncompleteBodyError:
        return IncompleteBodyError(
            f"{self.url} sent {self.received_bytes} bytes"
            + (f" of {self.length}" if self.length is not None else " of an unfinished body"),
            expected_bytes=self.length,
            received_bytes=self.received_bytes,
        )

    def _too_large(self) -> BodyTooLargeError:
        limit = self._max_bytes or 0
        return BodyTooLargeError(
            f"{self.url} has more than the {limit} bytes allowed", max_bytes=limit
        )
