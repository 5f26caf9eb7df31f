"""Ports that platforms keep from each other before anybody listens on them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.ports import KeptPort, free_address


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_port_is_kept_from_other_platforms_and_not_from_its_server() -> None:
    first = KeptPort(unused_port())
    second = KeptPort(first.number)
    assert second.number != first.number
    with socket.create_server(("127.0.0.1", first.number)):
        third = KeptPort(first.number)
    assert third.number not in (first.number, second.number)
    first.close()
    again = KeptPort(first.number)
    assert again.number == first.number
    for kept in (second, third, again):
        kept.close()


def test_an_address_that_another_platform_has_claimed_gives_way() -> None:
    wanted = f"127.0.0.1:{unused_port()}"
    with ExitStack() as claims:
        assert free_address(wanted, is_fixed=False, claims=claims) == wanted
        assert free_address(wanted, is_fixed=False, claims=claims) == "127.0.0.1:0"
        with pytest.raises(UsageError, match="choose another port, or 0 for any"):
            free_address(wanted, is_fixed=True, claims=claims)
    with ExitStack() as claims:
        assert free_address(wanted, is_fixed=True, claims=claims) == wanted
