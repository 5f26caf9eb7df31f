"""Where an orchestrator is: the forms of an address, and whether its connection is encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Address", "parse_address", "seed_addresses"]

_SCHEMES = {"grpcs": True, "https": True, "grpc": False, "http": False}
_TLS_PORT = "443"


class Address(NamedTuple):
    """One end to dial."""

    target: str
    """`host:port`, as gRPC takes it."""
    uses_tls: bool

    def __str__(self) -> str:
        return f"{'grpcs' if self.uses_tls else 'grpc'}://{self.target}"


def parse_address(text: str, *, use_tls: bool | None = None) -> Address:
    """Read `host:port`, or a URL with the scheme grpc, grpcs, http or https.

    Args:
        text: As the environment or a redirect gives it.
        use_tls: What the operator decided; None follows the scheme, and without one port 443.

    Raises:
        SettingsError: It names no host and port.
    """
    scheme, has_scheme, target = text.strip().partition("://")
    if not has_scheme:
        scheme, target = "", text.strip()
    scheme, target = scheme.lower(), target.rstrip("/")
    host, _, port = target.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    is_host = bool(host) and "/" not in host and (":" not in host or host.startswith("["))
    if (scheme and scheme not in _SCHEMES) or not is_host or not is_port:
        problem = (
            f"orchestrator address {text!r} is not understood: "
            "write host:port, grpc://host:port or grpcs://host:port"
        )
        raise SettingsError((problem,))
    inferred = _SCHEMES[scheme] if scheme else port == _TLS_PORT
    return Address(target, inferred if use_tls is None else use_tls)


def seed_addresses(
    primary: str, others: Iterable[str] = (), *, use_tls: bool | None = None
) -> tuple[Address, ...]:
    """Return every configured address once, the primary one first.

    Raises:
        SettingsError: One of them is not understood, or there is none.
    """
    texts = [text for text in (primary, *others) if text.strip()]
    if not texts:
        problem = (
            "no orchestrator to connect to: set ORCHESTRATOR_PUBLIC_ADDR "
            "(or PUBLIC_ORCHESTRATOR_GRPC_ADDR) to its host:port"
        )
        raise SettingsError((problem,))
    return tuple(dict.fromkeys(parse_address(text, use_tls=use_tls) for text in texts))
