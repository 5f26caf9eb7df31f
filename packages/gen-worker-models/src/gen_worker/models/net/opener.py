"""The one way this worker opens a URL.

A URL is parsed once, its host looked up once, every address checked, and the connection made to an
address that was checked; each redirect goes through the same door again.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from typing import TYPE_CHECKING

from gen_worker.models.net.addresses import look_up, system_lookup
from gen_worker.models.net.connection import Connection, dial
from gen_worker.models.net.errors import (
    IncompleteBodyError,
    NetworkError,
    TooManyRedirectsError,
    UrlRefusedError,
)
from gen_worker.models.net.pool import Pool
from gen_worker.models.net.proxies import Proxy, environment_proxy
from gen_worker.models.net.request import (
    HARMLESS_HEADERS,
    Request,
    checked_headers,
    head_bytes,
    head_time_s,
    raise_for_status,
)
from gen_worker.models.net.response import Response, read_head
from gen_worker.models.net.tls import default_context, secured, tunneled
from gen_worker.models.net.urls import Url, parse_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.cancel import CancelToken

__all__ = ["Opener"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Opener:
    """Opens `http` and `https` URLs and keeps connections alive. Thread-safe, blocking.

    An opener for URLs that callers send must trust nothing: make one of its own for them.
    """

    def __init__(
        self,
        *,
        trusted: Iterable[str] = (),
        allow_private: bool = False,
        connect_timeout_s: float = 60.0,
        read_timeout_s: float = 180.0,
        max_redirects: int = 6,
        user_agent: str = "gen-worker",
        proxy: Callable[[Url], Proxy | None] = environment_proxy,
        lookup: Callable[[str, int], Sequence[str]] = system_lookup,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Say what may be reached.

        Args:
            trusted: URLs whose origins may have private addresses, such as the configured hub's.
                A redirect reaches a private address only from one trusted origin to another.
            allow_private: Let every URL lead to any address: for tests and for a laptop's own use.
            connect_timeout_s: For looking up, connecting and the TLS handshake together.
            read_timeout_s: How long a peer may send nothing.
            max_redirects: Hops after the first request.
            user_agent: What the server is told.
            proxy: Chooses the proxy for a URL; never asked for a trusted origin.
            lookup: Turns a host and port into numeric addresses.
            context: TLS settings instead of the system's certificates.
        """
        self._trusted = frozenset(parse_url(url).origin for url in trusted)
        self._allow_private = allow_private
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._max_redirects = max_redirects
        self._user_agent = user_agent
        self._proxy = proxy
        self._lookup = lookup
        self._context = context
        self._context_lock = threading.Lock()
        self._pool = Pool()
        weakref.finalize(self, self._pool.close)

    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | bytearray | memoryview = b"",
        token: CancelToken | None = None,
        max_bytes: int | None = None,
        within_s: float | None = None,
    ) -> Response:
        """Send a request and return the answer once its head is here.

        Args:
            url: Where to; may hold a signature, which no error repeats.
            method: `GET`, `HEAD`, `PUT`, …
            headers: Sent to the URL's own origin; redirects elsewhere get the harmless ones only.
            body: Sent along, again after a 307 or 308 of the same origin.
            token: Its cancel ends connecting, sending and every later read of the answer.
            max_bytes: Most bytes of the answer's body.
            within_s: Time for the whole exchange, the body included.

        Raises:
            UrlRefusedError: The URL or a redirect leads where this worker does not go.
            HttpStatusError: The answer's status is 400 or above.
            NetworkError: No answer.
            BodyTooLargeError: The body is announced with more than `max_bytes`.
            CanceledError: `token` was canceled.
        """
        request = Request(
            parse_url(url),
            method,
            checked_headers(method, headers),
            memoryview(body).cast("B"),
            max_bytes,
            None if within_s is None else time.monotonic() + within_s,
        )
        is_inside = request.url.origin in self._trusted
        for _ in range(self._max_redirects + 1):
            response = self._exchange(request, token, is_inside)
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or location is None:
                raise_for_status(response, method)
                return response
            response.close()
            request = self._followed(request, response.status, location)
            is_inside = is_inside and request.url.origin in self._trusted
        raise TooManyRedirectsError(
            f"{parse_url(url)} redirects more than {self._max_redirects} times"
        )

    def close(self) -> None:
        """Close idle connections; answers being read go on."""
        self._pool.close()

    def _followed(self, request: Request, status: int, location: str) -> Request:
        """Return the request a redirect asks for."""
        target = request.url.join(location.encode("latin-1").decode("utf-8", "replace"))
        is_downgrade = request.url.scheme == "https" and target.scheme == "http"
        if is_downgrade and target.origin not in self._trusted:
            raise UrlRefusedError(f"{request.url} redirects to {target}, which is not encrypted")
        turns_get = status == 303 or (status in (301, 302) and request.method == "POST")
        if turns_get and request.method != "HEAD":
            request = request._replace(method="GET", body=memoryview(b""))
        if target.origin == request.url.origin:
            return request._replace(url=target)
        if request.body:
            raise UrlRefusedError(f"{request.url} redirects an upload to {target.origin}")
        kept = tuple(pair for pair in request.headers if pair[0].lower() in HARMLESS_HEADERS)
        return request._replace(url=target, headers=kept)

    def _exchange(self, request: Request, token: CancelToken | None, is_inside: bool) -> Response:
        """Send one request and read the answer's head; a dead idle connection is replaced once."""
        while True:
            if token is not None:
                token.raise_if_canceled()
            proxy = None if is_inside or self._allow_private else self._proxy(request.url)
            key = f"{request.url.origin} {is_inside} {proxy}"
            connection = self._pool.take(key) or self._connected(
                request.url, proxy, token, is_inside
            )
            try:
                return self._answered(connection, key, request, proxy, token)
            except IncompleteBodyError as error:
                if not connection.is_reused or error.received_bytes:
                    raise
            except NetworkError as error:
                if not connection.is_reused or not error.cause_type:
                    raise

    def _answered(
        self,
        connection: Connection,
        key: str,
        request: Request,
        proxy: Proxy | None,
        token: CancelToken | None,
    ) -> Response:
        try:
            connection.watch(token)
            connection.send(head_bytes(request, proxy, self._user_agent))
            if request.body:
                connection.send(request.body)
            head, ahead = read_head(connection, head_time_s(request, self._read_timeout_s))
            return Response(
                connection,
                head,
                ahead,
                url=request.url,
                method=request.method,
                release=functools.partial(self._pool.put, key),
                max_bytes=request.max_bytes if head.status < 300 else None,
                deadline=request.deadline,
            )
        except BaseException:
            connection.close()
            raise

    def _connected(
        self, url: Url, proxy: Proxy | None, token: CancelToken | None, is_inside: bool
    ) -> Connection:
        deadline = time.monotonic() + self._connect_timeout_s
        any_address = is_inside or self._allow_private
        if proxy is None:
            addresses = self._addresses(url.host, url.port, token, any_address)
            port = url.port
        else:
            self._check_behind_proxy(url, token)
            addresses = self._addresses(proxy.host, proxy.port, token, True)
            port = proxy.port
        left_s = max(0.1, deadline - time.monotonic())
        sock = dial(addresses, port, peer=url.origin, timeout_s=left_s, token=token)
        if url.scheme == "http":
            return Connection(sock, url.origin, silence_s=self._read_timeout_s)
        if proxy is not None:
            sock = tunneled(sock, url, proxy, left_s, token)
        left_s = max(0.1, deadline - time.monotonic())
        wrapped = secured(sock, url.host, self._tls(), left_s, token)
        return Connection(wrapped, url.origin, silence_s=self._read_timeout_s)

    def _check_behind_proxy(self, url: Url, token: CancelToken | None) -> None:
        """Refuse what is known to be private; names that only the proxy can look up are its own."""
        try:
            self._addresses(url.host, url.port, token, False)
        except NetworkError:
            return

    def _addresses(
        self, host: str, port: int, token: CancelToken | None, any_address: bool
    ) -> list[str]:
        return look_up(
            host,
            port,
            lookup=self._lookup,
            timeout_s=self._connect_timeout_s,
            token=token,
            any_address=any_address,
        )

    def _tls(self) -> ssl.SSLContext:
        with self._context_lock:
            if self._context is None:
                self._context = default_context()
            return self._context
