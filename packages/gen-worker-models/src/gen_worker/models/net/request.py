"""One request as it is sent, and the error its answer may stand for."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.net.errors import HttpStatusError, UrlRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.net.proxies import Proxy
    from gen_worker.models.net.response import Response
    from gen_worker.models.net.urls import Url

__all__ = [
    "HARMLESS_HEADERS",
    "Request",
    "checked_headers",
    "head_bytes",
    "head_time_s",
    "raise_for_status",
]

HARMLESS_HEADERS = frozenset({"accept", "if-none-match", "if-range", "range", "user-agent"})
"""All that another origin than the first one is told; any other header may be a credential."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(r"[A-Z]+")
_ERROR_BODY_BYTES = 4096


class Request(NamedTuple):
    """One hop."""

    url: Url
    method: str
    headers: tuple[tuple[str, str], ...]
    body: memoryview
    max_bytes: int | None
    deadline: float | None


def checked_headers(method: str, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the headers of a request.

    Raises:
        UrlRefusedError: One of them, or the method, would break out of its line.
    """
    pairs = tuple(headers)
    for name, value in pairs:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise UrlRefusedError(f"the header {name[:60]!r} has characters no header may have")
    if not _METHOD.fullmatch(method):
        raise UrlRefusedError(f"{method[:20]!r} is no HTTP method")
    return pairs


def head_bytes(request: Request, proxy: Proxy | None, user_agent: str) -> bytes:
    """Return the request line and headers as they are sent."""
    url = request.url
    through = proxy is not None and url.scheme == "http"
    lines = [f"{request.method} {url.full if through else url.target} HTTP/1.1"]
    given = {name.lower() for name, _ in request.headers}
    defaults = [("Host", url.authority), ("Accept-Encoding", "identity")]
    if "user-agent" not in given:
        defaults.append(("User-Agent", user_agent))
    if proxy is not None and through and proxy.authorization:
        defaults.append(("Proxy-Authorization", proxy.authorization))
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        defaults.append(("Content-Length", str(len(request.body))))
    own = ("host", "accept-encoding", "content-length", "transfer-encoding", "connection")
    pairs = [*defaults, *(pair for pair in request.headers if pair[0].lower() not in own)]
    lines += [f"{name}: {value}" for name, value in pairs]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def head_time_s(request: Request, most_s: float) -> float:
    """Return how long the answer's head may take."""
    if request.deadline is None:
        return most_s
    return min(most_s, max(0.0, request.deadline - time.monotonic()))


def raise_for_status(response: Response, method: str) -> None:
    """Raise what an error status stands for.

    Raises:
        HttpStatusError: The status is 400 or above; the response is closed.
    """
    if response.status < 400:
        return
    after = _retry_after(response.headers.get("retry-after", ""))
    try:
        body = response.read(_ERROR_BODY_BYTES)
    except ArtifactTransferError:
        body = b""
    finally:
        response.close()
    raise HttpStatusError(
        f"{method} {response.url} was answered with {response.status}",
        status_code=response.status,
        retry_after_s=after,
        body=body,
    )


def _retry_after(text: str) -> float | None:
    """Read seconds or a date; None for anything else."""
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else _until(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), 86_400.0)


def _until(text: str) -> float:
    return parsedate_to_datetime(text).timestamp() - time.time()
