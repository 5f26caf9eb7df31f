"""A blocking client of the NDJSON server, for programs that make one request at a time."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import WorkerError
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Client", "NoServerError", "ReplyFrame", "RequestTimeoutError"]

_CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 256 * 1024


class NoServerError(WorkerError, ConnectionError):
    """Nobody answers at the address, or the server went away before the answer."""


class RequestTimeoutError(WorkerError, TimeoutError):
    """The answer did not come in time; the request goes on at the server."""


class ReplyFrame(msgspec.Struct, frozen=True):
    """Any line a server writes."""

    ok: bool | None = None
    done: bool = False
    event: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    events: list[ReplyFrame] = []
    error: dict[str, Any] | None = None
    canceled: bool | None = None
    request_id: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the server says nothing more about the request."""
        return self.ok is not None


_decode = msgspec.json.Decoder(ReplyFrame).decode


class Client:
    """One connection to a server; use it as a context manager."""

    def __init__(self, address: str | UnixAddress | TcpAddress, *, token: str = "") -> None:
        """Connect.

        Args:
            address: `tcp://host:port`, `unix:///path` or a path.
            token: Sent with every frame; needed where the server listens beyond its machine.

        Raises:
            ValidationError: The address is malformed.
            NoServerError: Nobody answers there.
        """
        self.address = parse_address(address) if isinstance(address, str) else address
        self._token = token
        self._buffer = bytearray()
        self._socket = _connect(self.address)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def sibling(self) -> Client:
        """Open another connection to the same server.

        Raises:
            NoServerError: It does not answer any more.
        """
        return Client(self.address, token=self._token)

    def send(self, frame: Mapping[str, Any]) -> None:
        """Send one frame; see `docs/host-integration.md` for its keys."""
        token = {"token": self._token} if self._token else {}
        try:
            self._socket.sendall(msgspec.json.encode({**frame, **token}) + b"\n")
        except OSError as error:
            raise NoServerError(f"the server at {self.address} closed the connection") from error

    def replies(self, timeout_s: float | None = None) -> Iterator[ReplyFrame]:
        """Yield what the server writes, the last line of the request included.

        Args:
            timeout_s: How long to wait for each line; None waits forever.

        Raises:
            RequestTimeoutError: Nothing came in time; iterate again to go on waiting.
            NoServerError: The connection ended before the last line.
        """
        self._socket.settimeout(timeout_s)
        while True:
            reply = _decode(self._line())
            yield reply
            if reply.is_last:
                return

    def cancel(self, request_id: str) -> bool:
        """Cancel a request of another connection; return whether it was running."""
        self.send({"cancel": {"request_id": request_id}})
        (reply,) = self.replies(_CONNECT_TIMEOUT_S)
        return bool(reply.canceled)

    def _line(self) -> bytes:
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            try:
                data = self._socket.recv(_CHUNK_BYTES)
            except TimeoutError as error:
                raise RequestTimeoutError(f"no answer from {self.address} in time") from error
            except OSError as error:
                raise NoServerError(f"the connection to {self.address} broke: {error}") from error
            if not data:
                raise NoServerError(f"the server at {self.address} left without an answer")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def _connect(address: UnixAddress | TcpAddress) -> socket.socket:
    try:
        if isinstance(address, TcpAddress):
            return socket.create_connection(address, _CONNECT_TIMEOUT_S)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_TIMEOUT_S)
        connection.connect(address.path)
    except OSError as error:
        raise NoServerError(
            f"no server answers at {address} ({error.strerror or error}): start one with "
            f"`gen-worker serve`, or name its address with --socket"
        ) from error
    return connection
