"""Where a host is, and what its routes are called."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gen_worker.errors import ValidationError
from gen_worker.masking import without_credentials

__all__ = [
    "base_url_of",
    "call_path",
    "events_path",
    "file_path",
    "is_loopback",
    "query_of",
    "request_path",
]

_LOOPBACK = ("localhost", "::1")


def base_url_of(text: str) -> str:
    """Return the URL of a host; `host:port` means http.

    Raises:
        ValidationError: It is none.
    """
    url = text.strip()
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_url = is_url and not (parts.query or parts.fragment or parts.username)
        parts.port  # noqa: B018  # raises for what is no port
    except ValueError:
        is_url = False
    if not is_url:
        raise ValidationError(
            f"{without_credentials(text)!r:.120} is no URL of a host: write it as "
            "'http://127.0.0.1:8080', and give a token apart"
        )
    return url


def is_loopback(url: str) -> bool:
    """Tell whether a host is on this machine: no proxy leads there."""
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.") or host.endswith(".localhost")


def call_path(function: str) -> str:
    return f"/v1/request/{quote(function, safe='/:')}"


def request_path(request_id: str) -> str:
    """Return the path of a request.

    Raises:
        ValidationError: The id is empty.
    """
    if not request_id:
        raise ValidationError("a request id must not be empty")
    return f"/v1/requests/{quote(request_id, safe='')}"


def events_path(request_id: str) -> str:
    return f"{request_path(request_id)}/events"


def file_path(ref: str) -> str:
    """Return the path of a file that the host keeps.

    Raises:
        ValidationError: The ref is no name of such a file.
    """
    if not ref or "://" in ref:
        raise ValidationError(
            f"{ref!r:.120} is kept elsewhere, not by this host: fetch it from there"
        )
    return f"/v1/files/{quote(ref)}"


def query_of(path: str, parameters: dict[str, Any]) -> str:
    """Return a path with those parameters that are not None."""
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in parameters.items()
        if value is not None
    }
    return f"{path}?{urlencode(given, doseq=True)}" if given else path
