"""A socket path has one owner, leftovers are replaced, and nobody deletes what is not theirs."""

import os
import socket
import stat
from pathlib import Path

import pytest

from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
from gen_worker.runtime.ndjson.claim import AddressInUseError, claim, sidecar_path


@pytest.fixture
def address(tmp_path: Path) -> UnixAddress:
    return UnixAddress(str(tmp_path / "deep" / "s.sock"))


def test_the_socket_is_the_owners_alone(address: UnixAddress) -> None:
    owned = claim(address)
    assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(address.path)) == ["s.sock"]
    owned.release()
    assert os.listdir(os.path.dirname(address.path)) == []


def test_a_second_server_is_refused_and_harms_nothing(address: UnixAddress) -> None:
    first = claim(address)
    first.announce({"pid": 1})
    with pytest.raises(AddressInUseError, match="another server"):
        claim(address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)
    assert Path(sidecar_path(address)).read_text() == '{"pid":1}\n'
    first.release()


def test_the_socket_of_a_killed_server_is_replaced(address: UnixAddress) -> None:
    dead = claim(address)
    dead.listener.close()
    owned = claim(address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)
    dead.release()
    assert os.path.exists(address.path), "the dead server's teardown took the living one's socket"
    owned.release()


def test_a_file_that_is_no_socket_is_left_alone(address: UnixAddress) -> None:
    os.makedirs(os.path.dirname(address.path))
    Path(address.path).write_text("precious")
    with pytest.raises(AddressInUseError):
        claim(address)
    assert Path(address.path).read_text() == "precious"


def test_the_sidecar_is_private_and_goes_with_its_server(address: UnixAddress) -> None:
    owned = claim(address)
    owned.announce({"token": "secret"})
    path = sidecar_path(address)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    owned.release()
    assert not os.path.exists(path)


def test_a_taken_tcp_port_is_refused_and_port_zero_is_resolved() -> None:
    owned = claim(TcpAddress("127.0.0.1", 0))
    assert isinstance(owned.address, TcpAddress)
    assert owned.address.port > 0
    with pytest.raises(AddressInUseError, match="choose another port"):
        claim(owned.address)
    owned.release()
