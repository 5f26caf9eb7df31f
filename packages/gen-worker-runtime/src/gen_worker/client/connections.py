"""How httpx is set up and spoken to; the one module that knows what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.client.addresses import is_loopback
from gen_worker.client.steps import Head, LostError
from gen_worker.models.hub.connection import load_httpx, tls_context
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

    from gen_worker.client.steps import Question

else:
    httpx = load_httpx()

__all__ = [
    "LOST",
    "MAX_REPLY_BYTES",
    "async_pieces_of",
    "head_of",
    "lost",
    "new_async_client",
    "new_client",
    "pieces_of",
    "request_options",
]

MAX_REPLY_BYTES = 256 * 1024 * 1024
LOST = (httpx.TransportError, httpx.DecodingError)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_CONNECT_S = 10.0
_PIECE_BYTES = 256 * 1024


def new_client(url: str, token: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    return httpx.Client(transport=transport, **_setup_of(url, token))


def new_async_client(
    url: str, token: str, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, **_setup_of(url, token))


def _setup_of(url: str, token: str) -> dict[str, Any]:
    """Return the options of an httpx client for a host.

    Redirects are not followed: an answer elsewhere must not be given the token.
    """
    headers = {
        "user-agent": f"gen-worker/{sdk_version()}",
        "accept-encoding": "identity",  # events would be held back, and ranges counted otherwise
    }
    if token:
        headers["authorization"] = f"Bearer {token}"
    is_near = is_loopback(url)
    is_plain = is_near and url.startswith("http://")
    return {
        "headers": headers,
        "follow_redirects": False,
        "trust_env": not is_near,
        "verify": False if is_plain else tls_context(),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
    }


def request_options(question: Question, content: Any) -> dict[str, Any]:
    """Return the options of one request."""
    silence_s = question.silence_s
    return {
        "content": question.content if content is None else content,
        "headers": question.headers,
        "timeout": httpx.Timeout(silence_s, connect=min(silence_s, _CONNECT_S)),
    }


def head_of(response: httpx.Response) -> Head:
    return Head(response.status_code, response.headers)


def lost(error: Exception, url: str) -> LostError:
    """Return what an error of the network means; its own text may name other addresses."""
    return LostError(
        _REASONS.get(type(error), "the connection to {url} broke off").format(url=url),
        was_sent=not isinstance(error, _NOT_SENT),
    )


_REASONS: dict[type[Exception], str] = {
    httpx.ConnectError: "nobody listens at {url}",
    httpx.ConnectTimeout: "nobody answers at {url}",
    httpx.ReadTimeout: "nothing came from {url} for too long",
    TimeoutError: "nothing came from {url} for too long",
    httpx.WriteTimeout: "{url} takes nothing",
}


def pieces_of(path: str) -> Iterator[bytes]:
    """Read a file in pieces."""
    with open(path, "rb") as file:
        while data := file.read(_PIECE_BYTES):
            yield data


async def async_pieces_of(path: str) -> AsyncIterator[bytes]:
    """Read a file in pieces, in threads."""
    import asyncio

    file = await asyncio.to_thread(open, path, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield data
    finally:
        file.close()
