"""Listening sockets for HTTP."""

from __future__ import annotations

import os
import re
import socket
import stat

from gen_worker.errors import ValidationError
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress, parse_address
from gen_worker.runtime.ndjson.claim import ListenError

__all__ = ["open_listener", "parse_http_address", "url_of"]

_BACKLOG = 1024
_PROBE_TIMEOUT_S = 1.0
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)
"""A client that vanished without a word is gone after a minute of silence, and its call canceled;
connections inherit this from their listener. Seconds, and a count."""


def parse_http_address(text: str) -> UnixAddress | TcpAddress:
    """Read `host:port`, `:port`, `http://host:port`, or what `parse_address` reads.

    A path has a slash: a word alone is an address that lacks its port, or its host.

    Raises:
        ValidationError: The text is none of these.
    """
    if text.startswith("http://"):
        text = "tcp://" + text.removeprefix("http://").rstrip("/")
    elif re.fullmatch(r"(?a)(\[[^\]/]+\]|[\w.-]*):[0-9]+", text):
        text = f"tcp://{text}"
    elif "/" not in text:
        raise ValidationError(
            f"{text!r} is no address: write host:port, or the path of a unix socket with a slash"
        )
    return parse_address(text)


def open_listener(address: TcpAddress | UnixAddress) -> socket.socket:
    """Return a socket that listens; port 0 picks a free one.

    A unix socket belongs to its owner alone. What a killed server left at its path is replaced.

    Raises:
        ListenError: The address is taken, wrong or out of reach.
    """
    try:
        return _listen_unix(address) if isinstance(address, UnixAddress) else _listen_tcp(address)
    except UnicodeError as error:
        raise ListenError(f"{address} names no host: {error}") from error
    except OSError as error:
        if isinstance(error, ListenError):
            raise
        raise ListenError(
            f"cannot listen on {address}: {error.strerror or error}; give another address"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Return the URL that reaches a listener; for a unix socket `unix://` and its path."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix://{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen_tcp(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.create_server(tuple(address), family=family, backlog=_BACKLOG)
    for level, name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # each system has some of them
            listener.setsockopt(level, getattr(socket, name), value)
    return listener


def _listen_unix(address: UnixAddress) -> socket.socket:
    _remove_leftover(address.path)
    os.makedirs(os.path.dirname(address.path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(address.path)
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_leftover(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(f"{path!r} is a file and no socket: give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        if probe.connect_ex(path) == 0:
            raise ListenError(f"another server listens on {path!r}: give another path")
    os.unlink(path)
