"""An address has one owner, leftovers are replaced, and nobody deletes what is not theirs."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
from gen_worker.runtime.ndjson.claim import Claim, ListenError, claim, inherit
from gen_worker.runtime.ndjson.sidecar import read_sidecar, sidecar_path

LOOPBACK = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def address(tmp_path: Path) -> UnixAddress:
    return UnixAddress(str(tmp_path / "deep" / "s.sock"))


def files(address: UnixAddress) -> list[str]:
    return sorted(os.listdir(os.path.dirname(address.path)))


def connect(address: UnixAddress) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)


def die(server: Claim) -> None:
    """Leave everything behind, as a killed process does."""
    server.listener.close()


def test_the_socket_is_the_owners_alone(address: UnixAddress) -> None:
    owned = claim(address)
    assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600
    assert files(address) == ["s.sock"]
    owned.release()
    assert files(address) == []


def test_a_second_server_is_refused_and_harms_nothing(address: UnixAddress) -> None:
    first = claim(address)
    first.announce({"pid": 1})
    with pytest.raises(ListenError, match="another server"):
        claim(address)
    connect(address)
    assert Path(sidecar_path(address)).read_text() == '{"pid":1}\n'
    assert files(address) == ["s.sock", "s.sock.json"]
    first.release()


@pytest.mark.parametrize("has_leftover", [False, True])
def test_of_two_servers_that_race_one_wins(address: UnixAddress, has_leftover: bool) -> None:
    for _ in range(25):
        if has_leftover:
            die(claim(address))
        won: list[Claim] = []
        refused: list[ListenError] = []
        start = threading.Barrier(2)

        def run(
            start: threading.Barrier = start,
            won: list[Claim] = won,
            refused: list[ListenError] = refused,
        ) -> None:
            start.wait()
            try:
                won.append(claim(address))
            except ListenError as error:
                refused.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, 1)
        connect(address)
        assert files(address) == ["s.sock"]
        won[0].release()
        assert files(address) == []


def test_what_a_killed_server_left_is_replaced(address: UnixAddress) -> None:
    dead = claim(address)
    dead.announce({"pid": 1})
    die(dead)
    owned = claim(address)
    connect(address)
    assert files(address) == ["s.sock"], "its sidecar said that it was ready"
    dead.release()
    assert files(address) == ["s.sock"], "the dead server's teardown took the living one's socket"
    owned.release()


def test_a_server_that_lost_its_path_says_so(address: UnixAddress) -> None:
    first = claim(address)
    os.unlink(address.path)
    second = claim(address)
    with pytest.raises(ListenError, match="taken by another server"):
        first.announce({})
    first.release()
    assert files(address) == ["s.sock"]
    second.release()


def test_a_file_that_is_no_socket_is_left_alone(address: UnixAddress) -> None:
    os.makedirs(os.path.dirname(address.path))
    Path(address.path).write_text("precious")
    with pytest.raises(ListenError, match="is no socket"):
        claim(address)
    assert Path(address.path).read_text() == "precious"
    assert files(address) == ["s.sock"]


def test_a_folder_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "s.sock", tmp_path / ("x" * 200)):
        with pytest.raises(ListenError, match=r"cannot listen on|too long for a socket"):
            claim(UnixAddress(str(path)))


def test_the_sidecar_is_private_and_written_in_one_step(address: UnixAddress) -> None:
    owned = claim(address)
    path = sidecar_path(address)
    Path(f"{path}.{os.getpid()}").write_text("litter, readable by all")
    owned.announce({"token": "secret"})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert read_sidecar(path) == {"token": "secret"}
    assert files(address) == ["s.sock", "s.sock.json"]
    owned.release()
    assert files(address) == []


def test_a_sidecar_that_cannot_be_written_is_one_error(address: UnixAddress) -> None:
    owned = claim(address)
    os.mkdir(sidecar_path(address))
    with pytest.raises(ListenError, match="cannot announce"):
        owned.announce({})
    owned.release()
    assert files(address) == ["s.sock.json"]


def test_nobody_removes_the_sidecar_of_a_later_server(address: UnixAddress) -> None:
    owned = claim(address)
    owned.announce({"pid": 1})
    path = Path(sidecar_path(address))
    path.unlink()
    path.write_text('{"pid":2}')
    owned.release()
    assert read_sidecar(str(path)) == {"pid": 2}


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_an_unreadable_sidecar_announces_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_sidecar(str(path)) == {}


# -- TCP -------------------------------------------------------------------------------------------


def test_port_zero_is_resolved_and_a_taken_port_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    owned = claim(LOOPBACK)
    assert isinstance(owned.address, TcpAddress)
    assert owned.address.port > 0
    with pytest.raises(ListenError, match="Address already in use"):
        claim(owned.address)
    owned.release()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "203.0.113.7"])
def test_a_host_that_is_not_here_is_one_error(host: str) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on|is no name of a host"):
        claim(TcpAddress(host, 0))


def test_the_servers_of_a_folder_share_one_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = claim(LOOPBACK)
    document = {"pid": os.getpid(), "listen": str(first.address)}
    first.announce(document)
    path = Path(".gen-worker.serve.json")
    with pytest.raises(ListenError, match="start this one in another folder"):
        claim(LOOPBACK)
    assert msgspec.json.decode(path.read_bytes()) == document
    die(first)
    second = claim(LOOPBACK)
    assert not path.exists(), "a killed server is not ready"
    second.release()


# -- a socket of the parent's ----------------------------------------------------------------------


def test_an_inherited_socket_stays_the_parents(address: UnixAddress) -> None:
    parent = claim(address)
    child = inherit(address, os.dup(parent.listener.fileno()))
    child.announce({"pid": 2})
    assert read_sidecar(sidecar_path(address)) == {"pid": 2}
    child.release()
    assert files(address) == ["s.sock"]
    connect(address)
    parent.release()


def test_an_inherited_port_is_the_one_it_became(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parent = claim(LOOPBACK)
    child = inherit(LOOPBACK, os.dup(parent.listener.fileno()))
    assert child.address == parent.address
    child.release()
    parent.release()
