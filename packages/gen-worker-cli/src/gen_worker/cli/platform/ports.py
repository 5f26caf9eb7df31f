"""Addresses that the processes of a platform keep, however often they are started again."""

from __future__ import annotations

import socket

from gen_worker.cli.failures import UsageError
from gen_worker.runtime.http.listener import parse_http_address
from gen_worker.runtime.ndjson.address import TcpAddress

__all__ = ["chosen_address", "listens"]


def chosen_address(text: str, *, is_fixed: bool) -> str:
    """Return host:port of an address that is free now.

    Args:
        text: host:port, or :port on the loopback interface; port 0 stands for any.
        is_fixed: Whether the user has named it: then no other port will do.

    Raises:
        UsageError: It is taken, or no address.
    """
    address = parse_http_address(text)
    if not isinstance(address, TcpAddress):
        raise UsageError(f"{text!r} is no address of a network: write host:port")
    try:
        return _tried(address.host, address.port)
    except OSError as error:
        if is_fixed:
            raise UsageError(
                f"cannot listen on {text}: {error.strerror or error}; choose another port, or 0 "
                "for any"
            ) from error
        return _tried(address.host, 0)


def _tried(host: str, port: int) -> str:
    is_ipv6 = ":" in host
    with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET) as taken:
        # What a server of before has just left is free.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        number = taken.getsockname()[1]
    return f"[{host}]:{number}" if is_ipv6 else f"{host}:{number}"


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
