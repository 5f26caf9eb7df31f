"""Many requests on one connection, in every way HTTP/1.1 allows."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING

import pytest

from gen_worker.runtime.http import open_listener
from gen_worker.runtime.http.exchange import read_body, respond
from gen_worker.runtime.ndjson.address import TcpAddress

if TYPE_CHECKING:
    from conftest import Host, RunServer
    from gen_worker.runtime.http.exchange import (
        Answer,
        Headers,
        Leaver,
        Message,
        Receive,
        Scope,
        Send,
    )

TIMEOUT_S = 30.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request(text: str, *headers: str, version: str = "1.1", path: str = "echo") -> bytes:
    body = f'{{"text":"{text}"}}'
    head = [f"POST /v1/request/{path} HTTP/{version}", "host: localhost", *headers]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", body]).encode()


def read_to_end(peer: socket.socket) -> bytes:
    with peer:
        return b"".join(iter(lambda: peer.recv(65536), b""))


def texts(data: bytes) -> list[bytes]:
    return re.findall(rb'"output":\{"text":"([^"]*)"', data)


def test_requests_sent_ahead_are_answered_in_order(host: Host) -> None:
    ahead = [request(str(number)) for number in range(20)]
    last = request("last", "connection: close")
    for _ in range(2):  # the first time the function is looked up
        data = read_to_end(host.talk(b"".join([*ahead, last])))
        assert texts(data) == [*(b"%d" % number for number in range(20)), b"last"]
        assert data.count(b"HTTP/1.1 200 OK\r\n") == 21


def test_answers_that_wait_keep_the_order_too(host: Host) -> None:
    peer = host.talk(request("a", path="gate") + request("b") + request("c", "connection: close"))
    host.stage.expect("at the gate")
    host.stage.gate.set()
    assert texts(read_to_end(peer)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("headers", "version"),
    [(["connection: close"], "1.1"), ([], "1.0"), (["Connection: Close"], "1.1")],
)
def test_a_connection_that_is_not_kept_is_closed(
    host: Host, headers: list[str], version: str
) -> None:
    data = read_to_end(host.talk(request("a", *headers, version=version)))
    assert texts(data) == [b"a"]
    assert b"\r\nconnection: close\r\n" in data


@pytest.mark.parametrize("cut", [10, 60, 95, -1])
def test_a_request_may_come_in_pieces(host: Host, cut: int) -> None:
    data = request("a", "connection: close")
    peer = host.talk(data[:cut])
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with host.client() as client:  # while the server has the first piece alone
        assert client.get("/healthz").status_code == 200
    peer.sendall(data[cut:])
    assert texts(read_to_end(peer)) == [b"a"]


def test_a_body_in_chunks(host: Host) -> None:
    head = b"POST /v1/request/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    chunks = b'transfer-encoding: chunked\r\n\r\n5\r\n{"tex\r\n7\r\nt":"a"}\r\n0\r\n\r\n'
    assert texts(read_to_end(host.talk(head + chunks))) == [b"a"]


def test_a_client_that_asks_before_it_sends_its_body(host: Host) -> None:
    data = request("a", "expect: 100-continue", "connection: close")
    head, _, body = data.partition(b"\r\n\r\n")
    peer = host.talk(head + b"\r\n\r\n")
    assert peer.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
    peer.sendall(body)
    assert texts(read_to_end(peer)) == [b"a"]


def test_failures_on_a_kept_connection(host: Host) -> None:
    data = b"".join(
        [
            request("other", path="fail"),
            request("overloaded", path="fail"),
            request("a"),
            request("x", path="nope"),
            request("a", "connection: close"),
        ]
    )
    for _ in range(2):
        answers = read_to_end(host.talk(data))
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers)
        assert statuses == [b"500", b"429", b"200", b"404", b"200"]
        assert b"\r\nretry-after: 8\r\n" in answers


@pytest.mark.parametrize("is_quick", [False, True])
def test_a_connection_that_is_kept_for_nothing_is_closed(
    run_server: RunServer, is_quick: bool
) -> None:
    body = b'{"ok":true}'

    async def nobody() -> Message:
        raise AssertionError("the connection itself tells")

    class App:
        """Answers in both ways that our server knows."""

        def express(
            self, url: bytes, headers: Headers, body: bytes, answer: Answer
        ) -> Leaver | None:
            if is_quick:
                asyncio.get_running_loop().call_soon(answer, 200, body, ())
                return Waiting(nobody)
            return None

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, 200, await read_body(receive, {}, 100))

    class Waiting:
        is_over = False

        def __init__(self, receive: Receive) -> None:
            self.receive = receive

        def left(self) -> None:
            raise AssertionError("the client was answered before it left")

    listener = open_listener(TcpAddress("127.0.0.1", 0))
    with run_server(App(), listener, idle_s=0.01):
        with socket.create_connection(listener.getsockname(), TIMEOUT_S) as peer:
            peer.sendall(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            data = read_to_end(peer)
    assert data.endswith(body)
    assert b"connection: close" not in data
