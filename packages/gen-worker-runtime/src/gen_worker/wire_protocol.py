"""Which version of the protocol between worker and orchestrator this package speaks."""

from __future__ import annotations

__all__ = ["WIRE_PROTOCOL_MAJOR", "WIRE_PROTOCOL_MINOR", "wire_protocol_version_string"]

WIRE_PROTOCOL_MAJOR = 1
"""Peers of another major version cannot talk to each other."""

WIRE_PROTOCOL_MINOR = 9


def wire_protocol_version_string() -> str:
    """Return the version as it is shown and logged: `1.9`."""
    return f"{WIRE_PROTOCOL_MAJOR}.{WIRE_PROTOCOL_MINOR}"
