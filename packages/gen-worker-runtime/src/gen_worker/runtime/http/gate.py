"""Lets those in who may ask, and no web page that makes a browser ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import EVERYBODY, Principal
from gen_worker.runtime.http.origins import is_local_host, is_same_origin

if TYPE_CHECKING:
    from gen_worker.runtime.http.credentials import ScopeSet
    from gen_worker.runtime.http.exchange import Headers
    from gen_worker.runtime.http.options import HttpOptions

__all__ = ["Gate", "require"]

_OPEN_PATHS = ("/healthz", "/readyz")
_NOBODY = Principal(frozenset())
_MAX_KNOWN = 1024


class Gate:
    """Says who sent a request, or refuses it."""

    def __init__(self, options: HttpOptions) -> None:
        self._credentials = options.credentials
        self._is_loopback = options.is_loopback
        self._is_open = self._credentials is None and not self._is_loopback
        self._hosts: set[bytes] = set()

    def admit(self, path: str, headers: Headers) -> Principal:
        """Return who asks.

        Raises:
            Refusal: 401, there is no valid token; 403, a web page of another origin asks.
        """
        if self._is_open and b"origin" not in headers:
            return EVERYBODY
        if self._credentials is None:
            self._refuse_web_pages(headers)
            return EVERYBODY
        if path in _OPEN_PATHS:
            return _NOBODY
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        found = None
        if scheme.lower() == b"bearer":
            found = self._credentials.principal(given.strip())
        if found is None:
            wrong = "the token does not hold" if given.strip() else "a token is needed"
            raise Refusal(401, "unauthorized", f"{wrong}: send 'Authorization: Bearer <token>'")
        return found

    def _refuse_web_pages(self, headers: Headers) -> None:
        host = headers.get(b"host", b"")
        if self._is_loopback and host not in self._hosts:
            if not is_local_host(host):
                raise Refusal(403, "forbidden_host", "this server answers to localhost only")
            if len(self._hosts) < _MAX_KNOWN:
                self._hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and not is_same_origin(origin, host):
            raise Refusal(403, "forbidden_origin", "web pages of other origins are not answered")


def require(principal: Principal, scopes: ScopeSet) -> None:
    """Let a request pass whose sender has one of these scopes; none are needed where there is none.

    Raises:
        Refusal: 403.
    """
    if scopes and not principal.may(scopes):
        wanted = " or ".join(repr(scope) for scope in scopes)
        raise Refusal(
            403, "forbidden", f"the token does not allow this: it needs the scope {wanted}"
        )
