"""Which hosts and web pages a server without a token answers."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = ["is_local_host", "is_same_origin"]

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:/@\[\]]*))(?::[0-9]*)?")


def is_local_host(host: bytes) -> bool:
    """Tell whether a `Host` header means this machine.

    A web page may give its own name this machine's address; its requests then bear that name.
    """
    match = _HOST.fullmatch(host.decode("latin-1"))
    if match is None:
        return False
    name = (match[1] or match[2] or "localhost").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_origin(origin: bytes, host: bytes) -> bool:
    """Tell whether a request comes from a page of this very server."""
    try:
        return bool(host) and urlsplit(origin.decode("latin-1")).netloc == host.decode("latin-1")
    except ValueError:
        return False
