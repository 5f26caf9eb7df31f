"""One connection to one address: every wait on it is bounded, and ends at once on a cancel.

A plain socket stays blocking with a receive timeout set in the kernel, so that `MSG_WAITALL` fills
a large buffer in one call; measured against a read per wake-up, a quarter less processor time.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from gen_worker.models.net.errors import NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelToken

__all__ = ["Connection", "dial"]

_TICK_S = 0.5
"""How often a silent connection is looked at; a cancel does not wait for it."""
_DIAL_TICK_MS = 20
_TLS_ENOUGH_BYTES = 1 << 18


class Connection:
    """A connected socket, with or without TLS, that one thread uses at a time."""

    def __init__(self, sock: socket.socket, peer: str, *, silence_s: float) -> None:
        """Take over a connected socket.

        Args:
            sock: Closed by `close`.
            peer: Whom errors name.
            silence_s: Seconds without a byte after which the peer counts as gone.
        """
        self.peer = peer
        self.is_reused = False
        self._sock = sock
        self._silence_s = silence_s
        self._token: CancelToken | None = None
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        if self._is_tls:
            sock.settimeout(_TICK_S)
        else:
            sock.settimeout(None)
            tick = struct.pack("ll", int(_TICK_S), int(_TICK_S % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)

    def watch(self, token: CancelToken | None) -> None:
        """Let a cancel of `token` end whatever this connection waits for; None forgets it."""
        if self._token is not None:
            self._token.discard(self.abort)
        self._token = token
        if token is not None:
            token.on_cancel(self.abort)

    def abort(self) -> None:
        """Wake the thread that waits on this connection, from any thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which takes the session away from under the reader.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self.watch(None)
        self._sock.close()

    @property
    def is_stale(self) -> bool:
        """Whether the peer closed this idle connection, or sent what nobody asked for."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it.

        Raises:
            NetworkError: The peer is gone.
            CanceledError: The watched token was canceled.
        """
        view, quiet_since = memoryview(data), time.monotonic()
        while view:
            try:
                view = view[self._sock.send(view) :]
                quiet_since = time.monotonic()
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._check(quiet_since)
            except OSError as error:
                raise self._broken(error) from error

    def receive_into(self, view: memoryview, *, fill: bool = False) -> int:
        """Receive at least one byte; return how many, 0 when the peer has sent its last.

        Args:
            view: Where the bytes go.
            fill: Wait for all of `view`, but not longer than half a second.

        Raises:
            NetworkError: The peer is gone or silent for too long.
            CanceledError: The watched token was canceled.
        """
        quiet_since = time.monotonic()
        while True:
            try:
                count = self._receive(view, fill)
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._check(quiet_since)
                continue
            except OSError as error:
                raise self._broken(error) from error
            if not count and self._token is not None:
                self._token.raise_if_canceled()
            return count

    def _receive(self, view: memoryview, fill: bool) -> int:
        if not fill:
            return self._sock.recv_into(view)
        if not self._is_tls:
            return self._sock.recv_into(view, 0, socket.MSG_WAITALL)
        # TLS hands out one record, 16 KiB, at a time.
        count = self._sock.recv_into(view)
        until = time.monotonic() + _TICK_S / 2
        goal = min(len(view), _TLS_ENOUGH_BYTES)
        while 0 < count < goal and time.monotonic() < until:
            try:
                more = self._sock.recv_into(view[count:])
            except OSError:  # the next call meets it again
                break
            if not more:
                break
            count += more
        return count

    def _check(self, quiet_since: float) -> None:
        if self._token is not None:
            self._token.raise_if_canceled()
        if time.monotonic() - quiet_since >= self._silence_s:
            raise NetworkError(f"{self.peer} was silent for {self._silence_s:g} s")

    def _broken(self, error: OSError) -> Exception:
        if self._token is not None and self._token.is_canceled:
            return self._token.error()
        return NetworkError(f"the connection to {self.peer} broke", cause_type=type(error).__name__)


def dial(
    addresses: Sequence[str], port: int, *, peer: str, timeout_s: float, token: CancelToken | None
) -> socket.socket:
    """Connect to the first of `addresses` that answers.

    Raises:
        NetworkError: None does.
        CanceledError: `token` was canceled meanwhile.
    """
    deadline = time.monotonic() + timeout_s
    cause = "TimeoutError"
    for index, address in enumerate(addresses):
        share_s = (deadline - time.monotonic()) / (len(addresses) - index)
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _connect(sock, address, port, share_s, token)
        except OSError as error:
            sock.close()
            cause = type(error).__name__
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise NetworkError(f"no connection to {peer} within {timeout_s:g} s", cause_type=cause)


def _connect(
    sock: socket.socket, address: str, port: int, timeout_s: float, token: CancelToken | None
) -> None:
    sock.setblocking(False)
    code = sock.connect_ex((address, port))
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while code == errno.EINPROGRESS:
        if token is not None:
            token.raise_if_canceled()
        if poll.poll(_DIAL_TICK_MS):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        elif time.monotonic() > deadline:
            raise TimeoutError
    if code:
        raise OSError(code, "connect")
    sock.setblocking(True)
