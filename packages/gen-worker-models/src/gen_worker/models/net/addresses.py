"""Which network addresses a URL from outside may lead to, and looking up a host's addresses."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import TYPE_CHECKING

from gen_worker.models.net.errors import NetworkError, UrlRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelToken

__all__ = ["is_public", "look_up", "system_lookup"]


_TICK_S = 0.02
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `is_global` of some supported Python lets through: IANA's special-purpose registries.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "::/96",
        "::ffff:0:0/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fec0::/10",
    )
)


def is_public(address: str) -> bool:
    """Tell whether a numeric address belongs to the public internet.

    Loopback, private, link-local (cloud metadata), carrier-grade, multicast and reserved ranges do
    not, nor IPv4 addresses wrapped in IPv6; what NAT64 wraps counts as the address inside.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    if any(ip.version == network.version and ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def look_up(
    host: str,
    port: int,
    *,
    lookup: Callable[[str, int], Sequence[str]],
    timeout_s: float,
    token: CancelToken | None,
    any_address: bool,
) -> list[str]:
    """Return the addresses of a host, all of which may be connected to.

    Args:
        host: A name or a numeric address.
        port: Where one will connect.
        lookup: The resolver.
        timeout_s: How long it may take.
        token: Ends the wait; a lookup that hangs is left behind on its own thread.
        any_address: Whether private addresses are fine.

    Raises:
        UrlRefusedError: One of the addresses is not public. One is enough: an attacker's name
            server mixes good and bad ones.
        NetworkError: There is no address, or no answer.
    """
    addresses = _numeric(host) or _looked_up(host, port, lookup, timeout_s, token)
    inner = [address for address in addresses if not is_public(address)]
    if inner and not any_address:
        raise UrlRefusedError(
            f"the host {host!r} leads to {inner[0]}, which is no public address: list its origin "
            "as trusted if this worker may reach it"
        )
    return addresses


def _numeric(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return []


def _looked_up(
    host: str,
    port: int,
    lookup: Callable[[str, int], Sequence[str]],
    timeout_s: float,
    token: CancelToken | None,
) -> list[str]:
    """Look up on another thread, for the system's resolver can be neither stopped nor timed."""
    done = threading.Event()
    answer: list[str] = []
    failure: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            answer.extend(lookup(host, port))
        except (OSError, UnicodeError) as error:
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=ask, name="gen-worker-lookup", daemon=True).start()
    left_s = timeout_s
    while left_s > 0 and not done.wait(_TICK_S):
        left_s -= _TICK_S
        if token is not None:
            token.raise_if_canceled()
    if answer:
        return answer
    reason = type(failure[0]).__name__ if failure else ""
    state = "has no address" if done.is_set() else f"was not found within {timeout_s:g} s"
    raise NetworkError(f"the host {host!r} {state}: check the name", cause_type=reason)
