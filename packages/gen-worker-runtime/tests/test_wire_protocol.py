"""The protocol version a worker announces."""

from __future__ import annotations

from gen_worker.wire_protocol import (
    WIRE_PROTOCOL_MAJOR,
    WIRE_PROTOCOL_MINOR,
    wire_protocol_version_string,
)


def test_the_version_is_1_9() -> None:
    assert (WIRE_PROTOCOL_MAJOR, WIRE_PROTOCOL_MINOR) == (1, 9)
    assert wire_protocol_version_string() == "1.9"
