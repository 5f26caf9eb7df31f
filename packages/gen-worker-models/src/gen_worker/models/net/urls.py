"""URLs from outside, parsed once and strictly: what is not plainly a web address is refused."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, urljoin

from gen_worker.models.net.errors import UrlRefusedError

__all__ = ["Url", "parse_url"]

_MAX_CHARS = 16_384
_SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = {"http": 80, "https": 443}
# Left alone when the rest of a path or query is percent-encoded: RFC 3986, and `%` itself.
_SAFE = "!$%&'()*+,-./:;=?@_~[]|^"


class Url(NamedTuple):
    """An `http` or `https` URL; `str()` of it leaves out the query, which may be a signature."""

    scheme: str
    host: str
    """A lower-case ASCII name or an address, IPv6 without brackets."""
    port: int
    target: str
    """What the request line asks for: path and query."""

    @property
    def authority(self) -> str:
        """The `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def full(self) -> str:
        """The whole text, query included. It may be a secret: never log it."""
        return self.origin + self.target

    def join(self, location: str) -> Url:
        """Return where a redirect from here leads; the errors of `parse_url`."""
        try:
            joined = urljoin(self.full, location)
        except ValueError:
            raise UrlRefusedError(f"{self} redirects to no URL") from None
        return parse_url(joined)

    def __str__(self) -> str:
        return self.origin + self.target.partition("?")[0][:200]

    def __repr__(self) -> str:
        return str(self)


def parse_url(text: str) -> Url:
    """Read a URL; the fragment is dropped, other characters than ASCII are percent-encoded.

    Raises:
        UrlRefusedError: No `http` or `https` URL, or one that two programs might read differently:
            credentials, backslashes, blanks, control characters, a host that is no plain name or
            address. The text names the host at most.
    """
    if len(text) > _MAX_CHARS:
        raise UrlRefusedError(f"a URL of {len(text)} characters: at most {_MAX_CHARS} are accepted")
    if "\\" in text or any(char <= " " or char == "\x7f" for char in text):
        raise UrlRefusedError("a URL with a blank, a backslash or a control character: encode it")
    shape = _SHAPE.fullmatch(text)
    scheme = shape[1].lower() if shape else ""
    if shape is None or scheme not in _PORTS:
        raise UrlRefusedError(
            f"a URL of the scheme {scheme[:20]!r}: only http and https are opened"
        )
    host, port = _split(shape[2])
    target = quote((shape[3] or "/") + (shape[4] or ""), safe=_SAFE)
    return Url(scheme, host, port or _PORTS[scheme], target)


def _split(authority: str) -> tuple[str, int]:
    if "@" in authority:
        raise UrlRefusedError("a URL with credentials before its host: send them as a header")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise UrlRefusedError(
            f"the host {authority[:100]!r} is no ASCII name or address: write its 'xn--' form"
        )
    port = int(parts[2] or 0)
    if parts[2] and not 0 < port < 65_536:
        raise UrlRefusedError(f"the port {port} of a URL: ports are 1 to 65535")
    return _host(parts[1].lower()), port


def _host(name: str) -> str:
    """Return the host in its one spelling; `0x7f.1`, `127.1` and other disguises have none."""
    if name.startswith("["):
        return str(_address(name[1:-1], ipaddress.IPv6Address))
    name = name.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return str(_address(name, ipaddress.IPv4Address))
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise UrlRefusedError(f"the host {name[:100]!r} is no valid name")
    return name


def _address(
    text: str, kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return kind(text)
    except ValueError:
        raise UrlRefusedError(f"the host {text[:100]!r} is no valid address") from None
