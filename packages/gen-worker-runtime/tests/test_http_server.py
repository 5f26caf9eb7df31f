"""The HTTP server: addresses, readiness, and an end that waits for requests under way."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime.http import HttpServer, open_listener, url_of
from gen_worker.runtime.loop import run
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
from gen_worker.runtime.ndjson.claim import ListenError

if TYPE_CHECKING:
    from pathlib import Path


class App:
    """Answers with its path; `/slow` not before it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self._threads = ThreadPoolExecutor(1)  # the loop's own would be waited for at its end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            self.entered.set()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self.released.wait)
        body = scope["path"].encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Untidy:
    """Never answers, and needs a moment to clean up when it is cut off."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.is_clean = False

    async def __call__(self, _scope: Any, _receive: Any, _send: Any) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            self.is_clean = True


class Running:
    """A server in a thread, ready."""

    def __init__(self, app: App, listener: socket.socket, **options: Any) -> None:
        self.server = HttpServer(app, listener, **options)
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: run(self.server.serve(ready.set)))
        self.thread.start()
        assert ready.wait(60)

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


def ask(url: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_free_port_is_picked_and_told(host: str) -> None:
    listener = open_listener(TcpAddress(host, 0))
    url = url_of(listener)
    running = Running(App(), listener)
    assert ask(url, "/hello") == b"/hello"
    running.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(url, "/hello")


def test_a_system_without_httptools_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gen_worker.runtime.http.connection", None)
    listener = open_listener(TcpAddress("127.0.0.1", 0))
    url = url_of(listener)
    running = Running(App(), listener)
    assert "gen_worker.runtime.http.plain_connection" in sys.modules
    assert ask(url, "/hello") == b"/hello"
    running.stop()


def test_a_unix_socket_is_its_owners_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "hub.sock"
    listener = open_listener(UnixAddress(str(path)))
    running = Running(App(), listener)
    assert url_of(listener) == f"unix://{path}"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /unix HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"/unix")
    with pytest.raises(ListenError, match="another server"):
        open_listener(UnixAddress(str(path)))
    running.stop()
    assert not path.exists()


def test_what_a_killed_server_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left, file = tmp_path / "left.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    file.write_bytes(b"mine")
    open_listener(UnixAddress(str(left))).close()
    with pytest.raises(ListenError, match="no socket"):
        open_listener(UnixAddress(str(file)))
    assert file.read_bytes() == b"mine"


def test_an_address_that_is_taken_or_wrong_is_one_sentence() -> None:
    with open_listener(TcpAddress("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ListenError, match="cannot listen on tcp://127"):
            open_listener(TcpAddress("127.0.0.1", port))
    with pytest.raises(ListenError):
        open_listener(TcpAddress("a" * 300, 0))


def test_a_stop_lets_requests_under_way_end() -> None:
    app, listener = App(), open_listener(TcpAddress("127.0.0.1", 0))
    url = url_of(listener)
    running = Running(app, listener)
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(ask(url, "/slow")))
    client.start()
    assert app.entered.wait(60)
    running.server.stop()
    app.released.set()
    client.join(60)
    running.stop()
    assert answers == [b"/slow"]


def test_a_stop_does_not_wait_for_ever() -> None:
    app, listener = App(), open_listener(TcpAddress("127.0.0.1", 0))
    url = url_of(listener)
    running = Running(app, listener, grace_s=0.2)
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(ask(url, "/slow")))
    client.start()
    assert app.entered.wait(60)
    running.stop()
    client.join(60)
    app.released.set()
    assert answers == [b"Internal Server Error"]


def test_what_is_cut_off_cleans_up_before_the_server_has_ended() -> None:
    """What it uses is closed after the server, such as the threads that close its files."""
    app, listener = Untidy(), open_listener(TcpAddress("127.0.0.1", 0))
    seen: list[bool] = []

    async def serve_and_look(server: HttpServer, ready: threading.Event) -> None:
        await server.serve(ready.set)
        seen.append(app.is_clean)

    server, ready = HttpServer(app, listener, grace_s=0.1), threading.Event()
    thread = threading.Thread(target=lambda: run(serve_and_look(server, ready)))
    thread.start()
    assert ready.wait(60)
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert app.entered.wait(60)
        server.stop()
        thread.join(60)
    assert seen == [True]
