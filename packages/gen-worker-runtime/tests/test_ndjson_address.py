"""Addresses parse into one of two values, or refuse with the remedy."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://127.0.0.1:9000", TcpAddress("127.0.0.1", 9000)),
        ("tcp://:9000", TcpAddress("127.0.0.1", 9000)),
        ("tcp://0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("tcp://[::1]:80", TcpAddress("::1", 80)),
        ("unix:///run/a.sock", UnixAddress("/run/a.sock")),
        ("/run/a.sock", UnixAddress("/run/a.sock")),
        ("a.sock", UnixAddress(os.path.abspath("a.sock"))),
    ],
)
def test_known_forms(text: str, expected: object) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["tcp://", "tcp://host", "tcp://h:x", "tcp://h:65536", "tcp://h:-1"]
)
def test_a_malformed_tcp_address_says_what_to_write(text: str) -> None:
    with pytest.raises(ValidationError, match="tcp://host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "is_private"),
    [
        ("tcp://localhost:1", True),
        ("tcp://127.8.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://example:1", False),
        ("a.sock", True),
    ],
)
def test_only_this_machine_is_private(text: str, is_private: bool) -> None:
    assert parse_address(text).is_private is is_private


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValidationError:
        return
    assert parse_address(str(address)) == address
