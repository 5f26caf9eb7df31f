"""Addresses a server listens on and a client connects to."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from gen_worker.errors import ValidationError

__all__ = ["TcpAddress", "UnixAddress", "parse_address"]

_LOOPBACK = "127.0.0.1"
_HOST_AND_PORT = r"(?a)tcp://(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([\w.-]*)):([0-9]{1,5})"


class UnixAddress(NamedTuple):
    """A unix socket, by absolute path."""

    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def is_private(self) -> bool:
        """Always: the socket file is readable by its owner alone."""
        return True


class TcpAddress(NamedTuple):
    """A TCP listener or peer."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        from ipaddress import ip_address  # late: most servers listen on a unix socket

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """Read `tcp://host:port`, `unix:///path` or a bare path.

    An empty TCP host means the loopback interface: other machines are let in only by naming an
    address such as `0.0.0.0`.

    Raises:
        ValidationError: The text is none of these.
    """
    if text.startswith("tcp://"):
        return _tcp(text)
    path = text.removeprefix("unix://")
    if not path or "\0" in path or path.endswith("/"):
        raise ValidationError(
            f"{text!r} is no address: give tcp://host:port, unix:///path or a path"
        )
    return UnixAddress(os.path.abspath(path))


def _tcp(text: str) -> TcpAddress:
    match = re.fullmatch(_HOST_AND_PORT, text)
    if match is None or int(match[3]) > 65535:
        raise ValidationError(f"{text!r} is no TCP address: write tcp://host:port, port 0 to 65535")
    return TcpAddress(match[1] or match[2] or _LOOPBACK, int(match[3]))
