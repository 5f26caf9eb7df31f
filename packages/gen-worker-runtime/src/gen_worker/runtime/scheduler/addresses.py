"""Where a scheduler is, as others call it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.gateway import Gateway
    from gen_worker.runtime.scheduler.settings import SchedulerSettings

__all__ = [
    "is_wildcard",
    "own_address_towards",
    "url_towards",
    "url_with_host",
    "worker_address",
]


def worker_address(settings: SchedulerSettings, gateway: Gateway) -> str:
    """Return where workers connect to, as they are told."""
    if settings.public_workers:
        return settings.public_workers
    host, _, port = gateway.address.rpartition(":")
    return f"127.0.0.1:{port}" if is_wildcard(host.strip("[]")) else gateway.address


def url_towards(settings: SchedulerSettings, bound: tuple[str, int], peer: str = "") -> str:
    """Return the URL of the HTTP side, as a gRPC peer reaches it; empty is this machine.

    Args:
        settings: May name it.
        bound: Host and port that clients are served on.
        peer: Whoever is to reach it.
    """
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host, port = bound
    if is_wildcard(host):
        host = own_address_towards(peer) if peer else "127.0.0.1"
    return url_with_host(host, port)


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
