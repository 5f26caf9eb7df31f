"""The one safe way to open a URL: what may be reached, how, for how long and how much of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.net.addresses import is_public
    from gen_worker.models.net.errors import (
        BodyTooLargeError,
        HttpStatusError,
        IncompleteBodyError,
        NetworkError,
        UrlRefusedError,
    )
    from gen_worker.models.net.opener import Opener
    from gen_worker.models.net.proxies import Proxy, environment_proxy
    from gen_worker.models.net.response import Response
    from gen_worker.models.net.urls import Url, parse_url

__all__ = [
    "BodyTooLargeError",
    "HttpStatusError",
    "IncompleteBodyError",
    "NetworkError",
    "Opener",
    "Proxy",
    "Response",
    "Url",
    "UrlRefusedError",
    "environment_proxy",
    "is_public",
    "parse_url",
]

_MODULES = {
    "addresses": ("is_public",),
    "errors": (
        "BodyTooLargeError",
        "HttpStatusError",
        "IncompleteBodyError",
        "NetworkError",
        "UrlRefusedError",
    ),
    "opener": ("Opener",),
    "proxies": ("Proxy", "environment_proxy"),
    "response": ("Response",),
    "urls": ("Url", "parse_url"),
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
