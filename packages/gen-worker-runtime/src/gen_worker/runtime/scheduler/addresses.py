"""Where a scheduler is, as others call it."""

from __future__ import annotations

import socket

__all__ = ["is_wildcard", "own_address_towards", "url_with_host"]


def is_wildcard(host: str) -> bool:
    """Tell whether a server listens on all addresses of its machine, so that none is its own."""
    return host in ("", "0.0.0.0", "::")


def url_with_host(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_address_towards(peer: str) -> str:
    """Return this machine's address on the way to a gRPC peer such as `ipv4:10.0.0.7:5310`."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address
