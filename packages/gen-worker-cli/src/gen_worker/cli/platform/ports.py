"""Addresses that the processes of a platform keep, however often they are started again.

Two platforms that are started at the same moment would both find a port free, before either's
server listens on it. So a platform first claims a port's number: it binds the datagram port of the
same number, which only one process has, for nothing else, and which goes with the process.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from gen_worker.cli.failures import UsageError
from gen_worker.runtime.http.listener import parse_http_address
from gen_worker.runtime.ndjson.address import TcpAddress

if TYPE_CHECKING:
    from contextlib import ExitStack

__all__ = ["KeptPort", "free_address", "listens"]


def free_address(text: str, *, is_fixed: bool, claims: ExitStack) -> str:
    """Return host:port of an address; one that is taken by now gives way to port 0, for any.

    Args:
        text: host:port, or :port on the loopback interface; port 0 stands for any.
        is_fixed: Whether the user has named it: then no other port will do.
        claims: Keeps other platforms from the port until it is closed.

    Raises:
        UsageError: It is taken, or no address.
    """
    address = parse_http_address(text)
    if not isinstance(address, TcpAddress):
        raise UsageError(f"{text!r} is no address of a network: write host:port")
    port = address.port
    try:
        if port:
            claim = _claimed(address.host, port)
            try:
                _bound(address.host, port).close()
            except OSError:
                claim.close()
                raise
            claims.enter_context(claim)
    except OSError as error:
        if is_fixed:
            raise UsageError(
                f"cannot listen on {text}: {error.strerror or error}; choose another port, or 0 "
                "for any"
            ) from error
        port = 0
    return f"[{address.host}]:{port}" if ":" in address.host else f"{address.host}:{port}"


class KeptPort:
    """A port of the loopback interface that a child is to listen on, and nobody else is given.

    It is bound and does not listen, so that who asks for it by number can have it.
    """

    def __init__(self, wanted: int) -> None:
        """Take this port, or any when it is 0 or taken."""
        self._sockets = _kept(wanted)
        self.number = int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _kept(wanted: int) -> tuple[socket.socket, socket.socket]:
    """Bind a port of the loopback interface, and claim its number."""
    while True:
        try:
            bound = _bound("127.0.0.1", wanted)
        except OSError:
            if not wanted:
                raise
            wanted = 0
            continue
        try:
            return bound, _claimed("127.0.0.1", int(bound.getsockname()[1]))
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE:
                raise
            wanted = 0


def _claimed(host: str, port: int) -> socket.socket:
    """Claim the number of a port, for as long as the socket is open."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    claim = socket.socket(family, socket.SOCK_DGRAM)
    try:
        claim.bind((host, port))
    except BaseException:
        claim.close()
        raise
    return claim


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # What a server of before has just left is free.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
