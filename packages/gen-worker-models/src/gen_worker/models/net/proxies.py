"""Which proxy, if any, requests go through: what the environment says, as curl reads it."""

from __future__ import annotations

import base64
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from gen_worker.models.net.errors import UrlRefusedError

if TYPE_CHECKING:
    from gen_worker.models.net.urls import Url

__all__ = ["Proxy", "environment_proxy"]


class Proxy(NamedTuple):
    """An HTTP proxy; `str()` of it leaves out its credentials."""

    host: str
    port: int
    authorization: str
    """Value of `Proxy-Authorization`; empty when it needs none."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return str(self)


def environment_proxy(url: Url) -> Proxy | None:
    """Return the proxy that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name.

    Raises:
        UrlRefusedError: It is of a kind this worker does not speak.
    """
    configured = urllib.request.getproxies_environment()
    text = configured.get(url.scheme) or configured.get("all")
    if not text:
        return None
    # typeshed does not know it.
    bypass: Any = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined,unused-ignore]
    if bypass(f"{url.host}:{url.port}", configured):
        return None
    return _parse(text if "://" in text else f"http://{text}")


def _parse(text: str) -> Proxy:
    try:
        parts = urlsplit(text)
        port = parts.port or 80
    except ValueError:
        raise UrlRefusedError("the proxy in the environment is no URL: http://host:port") from None
    if parts.scheme != "http" or not parts.hostname:
        raise UrlRefusedError(
            f"the environment's proxy is of the kind {parts.scheme[:20]!r}: only http is spoken"
        )
    return Proxy(parts.hostname, port, _authorization(parts.username, parts.password))


def _authorization(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")
