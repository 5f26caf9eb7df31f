"""A blocking client of the NDJSON server, for programs that make one request at a time."""

from __future__ import annotations

import socket
import time
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
    """The answer did not come in time."""


class ReplyFrame(msgspec.Struct, frozen=True):
    """Any line a server writes."""

    ok: bool | None = None
    done: bool = False
    event: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    events: list[ReplyFrame] = []
    error: dict[str, Any] | None = None
    canceled: bool | None = None
    detached: bool | None = None
    request_id: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the server says nothing more about the request."""
        return self.ok is not None


_decode = msgspec.json.Decoder(ReplyFrame).decode


class Client:
    """One connection to a server; use it as a context manager."""

    def __init__(
        self,
        address: str | UnixAddress | TcpAddress,
        *,
        token: str = "",
        timeout_s: float = _CONNECT_TIMEOUT_S,
    ) -> None:
        """Connect.

        Args:
            address: `tcp://host:port`, `unix:///path` or a path.
            token: Sent with every frame; needed where the server listens beyond its machine.
            timeout_s: How long to try.

        Raises:
            ValidationError: The address is malformed.
            NoServerError: Nobody answers there.
        """
        self.address = parse_address(address) if isinstance(address, str) else address
        self._token = token
        self._buffer = bytearray()
        self._scanned = 0
        self._socket = _connect(self.address, timeout_s)

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

    def sibling(self, timeout_s: float = _CONNECT_TIMEOUT_S) -> Client:
        """Open another connection to the same server.

        Raises:
            NoServerError: It does not answer any more.
        """
        return Client(self.address, token=self._token, timeout_s=timeout_s)

    def send(self, frame: Mapping[str, Any]) -> None:
        """Send one frame; see `docs/host-integration.md` for its keys.

        A server that refuses the frame before it has all of it is no error here: its answer says
        why.
        """
        token = {"token": self._token} if self._token else {}
        self._socket.settimeout(None)
        try:
            self._socket.sendall(msgspec.json.encode({**frame, **token}) + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:
            raise NoServerError(f"the connection to {self.address} broke: {error}") from error

    def replies(self, timeout_s: float | None = None) -> Iterator[ReplyFrame]:
        """Yield what the server writes, the last line of the request included.

        Args:
            timeout_s: How long to wait for each line; None waits forever.

        Raises:
            RequestTimeoutError: Nothing came in time; iterate again to go on waiting.
            NoServerError: The connection ended before the last line, or does not speak the
                protocol.
        """
        while True:
            line = self._line(timeout_s)
            try:
                reply = _decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise NoServerError(
                    f"what answers at {self.address} is no gen-worker: {line[:80]!r}"
                ) from error
            yield reply
            if reply.is_last:
                return

    def cancel(self, request_id: str, timeout_s: float = _CONNECT_TIMEOUT_S) -> bool:
        """Cancel a request of another connection; return whether it was running."""
        self.send({"cancel": {"request_id": request_id}})
        (reply,) = self.replies(timeout_s)
        return bool(reply.canceled)

    def detach(self, request_id: str, timeout_s: float = _CONNECT_TIMEOUT_S) -> bool:
        """Let a request of another connection go on without its client; return whether it runs."""
        self.send({"detach": {"request_id": request_id}})
        (reply,) = self.replies(timeout_s)
        return bool(reply.detached)

    def _line(self, timeout_s: float | None) -> bytes:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (end := self._buffer.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._buffer)
            self._buffer += self._receive(deadline)
        line = bytes(memoryview(self._buffer)[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line

    def _receive(self, deadline: float | None) -> bytes:
        try:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            self._socket.settimeout(left)
            data = self._socket.recv(_CHUNK_BYTES)
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer from {self.address} in time") from error
        except OSError as error:
            raise NoServerError(f"the connection to {self.address} broke: {error}") from error
        if not data:
            raise NoServerError(f"the server at {self.address} left without an answer")
        return data


def _connect(address: UnixAddress | TcpAddress, timeout_s: float) -> socket.socket:
    try:
        if isinstance(address, TcpAddress):
            return socket.create_connection(address, timeout_s)
        return _connect_unix(address, timeout_s)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NoServerError(
            f"no server answers at {address} ({reason}): start one with `gen-worker serve`, "
            "or name its address with --socket"
        ) from error


def _connect_unix(address: UnixAddress, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.path)
    except BaseException:
        connection.close()
        raise
    return connection
