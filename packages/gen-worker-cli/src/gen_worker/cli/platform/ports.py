"""Addresses that the processes of a platform keep, however often they are started again."""

from __future__ import annotations

import socket

from gen_worker.cli.failures import UsageError
from gen_worker.runtime.http.listener import parse_http_address
from gen_worker.runtime.ndjson.address import TcpAddress

__all__ = ["KeptPort", "free_address", "listens"]


def free_address(text: str, *, is_fixed: bool) -> str:
    """Return host:port of an address; one that is taken by now gives way to port 0, for any.

    Args:
        text: host:port, or :port on the loopback interface; port 0 stands for any.
        is_fixed: Whether the user has named it: then no other port will do.

    Raises:
        UsageError: It is taken, or no address.
    """
    address = parse_http_address(text)
    if not isinstance(address, TcpAddress):
        raise UsageError(f"{text!r} is no address of a network: write host:port")
    port = address.port
    try:
        if port:
            _bound(address.host, port).close()
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
        try:
            self._socket = _bound("127.0.0.1", wanted)
        except OSError:
            self._socket = _bound("127.0.0.1", 0)
        self.number = int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._socket.close()


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
