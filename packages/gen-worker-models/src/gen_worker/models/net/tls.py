"""TLS over a connected socket, and the tunnel of a proxy to run it through."""

from __future__ import annotations

import importlib
import select
import ssl
import time
from typing import TYPE_CHECKING

from gen_worker.models.net.connection import Connection
from gen_worker.models.net.errors import NetworkError
from gen_worker.models.net.response import read_head

if TYPE_CHECKING:
    import socket

    from gen_worker.cancel import CancelToken
    from gen_worker.models.net.proxies import Proxy
    from gen_worker.models.net.urls import Url

__all__ = ["default_context", "secured", "tunneled"]

_TICK_S = 0.02


def default_context() -> ssl.SSLContext:
    """Return the system's certificates, or those of certifi where the system has none."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not ssl.get_default_verify_paths().capath:
        context.load_verify_locations(importlib.import_module("certifi").where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def secured(
    sock: socket.socket,
    host: str,
    context: ssl.SSLContext,
    timeout_s: float,
    token: CancelToken | None,
) -> ssl.SSLSocket:
    """Shake hands for `host`; the socket is closed when that fails.

    Raises:
        NetworkError: The certificate is not `host`'s (not retryable), or the handshake broke off.
        CanceledError: `token` was canceled meanwhile.
    """
    sock.setblocking(False)
    wrapped = None
    try:
        wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        _shake_hands(wrapped, time.monotonic() + timeout_s, token)
    except ssl.SSLCertVerificationError as error:
        (wrapped or sock).close()
        raise NetworkError(
            f"the certificate of {host!r} is not trusted: {error.verify_message}",
            retryable=False,
            cause_type=type(error).__name__,
        ) from error
    except OSError as error:
        (wrapped or sock).close()
        raise NetworkError(
            f"no encrypted connection to {host!r}", cause_type=type(error).__name__
        ) from error
    except BaseException:
        (wrapped or sock).close()
        raise
    return wrapped


def _shake_hands(sock: ssl.SSLSocket, deadline: float, token: CancelToken | None) -> None:
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            select.select([sock], [], [], _TICK_S)
        except ssl.SSLWantWriteError:
            select.select([], [sock], [], _TICK_S)
        if token is not None:
            token.raise_if_canceled()
        if time.monotonic() > deadline:
            raise TimeoutError


def tunneled(
    sock: socket.socket, url: Url, proxy: Proxy, timeout_s: float, token: CancelToken | None
) -> socket.socket:
    """Ask a proxy to pass bytes on to `url`'s host.

    Raises:
        NetworkError: It refuses.
    """
    lines = [f"CONNECT {_address(url)} HTTP/1.1", f"Host: {_address(url)}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connection = Connection(sock, f"the proxy {proxy}", silence_s=timeout_s)
    try:
        connection.watch(token)
        connection.send(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        head, ahead = read_head(connection, timeout_s)
        if head.status != 200 or ahead:
            raise NetworkError(f"the proxy {proxy} answered {head.status} for {url.origin}")
        connection.watch(None)
    except BaseException:
        connection.close()
        raise
    return sock


def _address(url: Url) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port}"
