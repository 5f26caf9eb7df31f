"""The one safe way to open a URL: what may be reached, how, for how long and how much of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "BodyTooLargeError": "errors",
    "HttpStatusError": "errors",
    "IncompleteBodyError": "errors",
    "NetworkError": "errors",
    "Opener": "opener",
    "Proxy": "proxies",
    "Response": "response",
    "Url": "urls",
    "UrlRefusedError": "errors",
    "environment_proxy": "proxies",
    "is_public": "addresses",
    "parse_url": "urls",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=(name,))
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
