"""The blocking client: one error for everything that is no answer."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import ValidationError
from gen_worker.runtime.ndjson.client import Client, NoServerError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Serve, Stage


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket at `s.sock` that is no gen-worker's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        yield listener


def test_one_request(serve: Serve) -> None:
    with Client(serve().address) as client:
        client.send({"function": "count", "payload": {"count": 2}, "stream": True})
        replies = list(client.replies(60))
    assert [reply.event for reply in replies] == ["yield", "yield", "result", None]
    assert bytes(replies[2].value) == b'{"yielded":2}'
    assert replies[3].done


def test_an_answer_in_many_pieces(serve: Serve) -> None:
    text = "é" * 1_000_000
    with Client(serve().address) as client:
        client.send({"function": "echo", "payload": {"text": text}})
        (reply,) = client.replies(60)
    assert text in bytes(reply.events[0].value).decode()


def test_the_token_goes_with_every_frame(serve: Serve) -> None:
    server = serve(tcp=True, token="s3cret")
    with Client(server.address, token="s3cret") as client, client.sibling() as other:
        assert other.cancel("nobody") is False
        client.send({"function": "echo"})
        assert next(client.replies(60)).ok


def test_waiting_may_end_and_be_taken_up_again(serve: Serve, stage: Stage) -> None:
    with Client(serve().address) as client:
        client.send({"function": "gate"})
        with pytest.raises(RequestTimeoutError):
            next(client.replies(0.01))
        stage.go.set()
        assert next(client.replies(60)).ok


def test_detach_says_whether_there_was_such_a_request(serve: Serve, stage: Stage) -> None:
    with Client(serve().address) as client:
        client.send({"function": "gate", "request_id": "r"})
        stage.expect("at the gate")
        with client.sibling() as other:
            assert other.detach("r") is True
        with client.sibling() as other:
            assert other.detach("nobody") is False


def test_nobody_there(tmp_path: Path) -> None:
    for address in (str(tmp_path / "none"), "tcp://127.0.0.1:1", "x" * 200):
        with pytest.raises(NoServerError, match="start one with `gen-worker serve`"):
            Client(address)
    with pytest.raises(ValidationError, match="is no TCP address"):
        Client("tcp://x")


def test_a_frame_that_is_refused_while_it_is_sent(serve: Serve) -> None:
    with Client(serve(max_frame_bytes=1000).address) as client:
        client.send({"function": "echo", "payload": {"text": "x" * 10_000_000}})
        (reply,) = client.replies(60)
    assert reply.error is not None
    assert "more than 1000 bytes" in reply.error["message"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"[]\n", b"\xff\n"])
def test_something_else_that_answers(foreign: socket.socket, answer: bytes) -> None:
    def reply() -> None:
        peer, _ = foreign.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(answer)

    thread = threading.Thread(target=reply)
    thread.start()
    with Client(foreign.getsockname()) as client:
        client.send({"function": "f"})
        with pytest.raises(NoServerError, match="is no gen-worker"):
            next(client.replies(60))
    thread.join()


def test_a_server_that_leaves(foreign: socket.socket) -> None:
    with Client(foreign.getsockname()) as client:
        client.send({"function": "f"})
        foreign.accept()[0].close()
        with pytest.raises(NoServerError):
            next(client.replies(60))
