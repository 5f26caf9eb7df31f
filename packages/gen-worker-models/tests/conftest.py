"""Fixtures that several rooms share."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

Behaviour = Callable[["Asked"], None]


class Asked:
    """One request as the scripted server got it, and the means to answer it badly."""

    def __init__(
        self, server: ScriptedServer, sock: socket.socket, line: str, headers: dict[str, str]
    ) -> None:
        self.server = server
        self.sock = sock
        self.method, self.target = line.split(" ")[:2]
        self.path = self.target.partition("?")[0]
        self.headers = headers
        self.body = b""
        self.stays_open = True
        self.data = server.files.get(self.path, b"")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        self.is_ranged = match is not None
        self.start = int(match[1]) if match else 0
        self.stop = int(match[2]) + 1 if match and match[2] else len(self.data)

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; `_` in a name stands for `-`."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.server.count(len(data))

    def cut(self) -> None:
        """Reset the connection."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stays_open = False

    def serve(self, *, most: int | None = None, flip: int | None = None) -> None:
        """Answer as a good server would.

        Args:
            most: Send so many bytes of the body, then close the connection.
            flip: Damage the byte at this offset of the file.
        """
        if self.path not in self.server.files:
            self.head(404, Content_Length=0)
            return
        if self.is_ranged and self.start >= len(self.data):
            self.head(416, Content_Length=0)
            return
        data = bytearray(self.data)
        if flip is not None:
            data[flip] ^= 0xFF
        stop = min(self.stop, len(data))
        size = stop - self.start
        span = f"bytes {self.start}-{stop - 1}/{len(data)}"
        if self.is_ranged:
            self.head(206, Content_Length=size, Content_Range=span)
        else:
            self.head(200, Content_Length=size)
        if self.method != "HEAD":
            self.send(bytes(data[self.start : stop if most is None else self.start + most]))
        if most is not None and most < size:
            self.stays_open = False

    def whole(self) -> None:
        """Ignore the range."""
        self.head(200, Content_Length=len(self.data))
        self.send(self.data)


class ScriptedServer:
    """An HTTP/1.1 server on loopback that does what a test tells it to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.bytes_sent = 0
        self.connections = 0
        self.default: Behaviour = Asked.serve
        self.released = threading.Event()
        """Behaviours that stall wait for it; set when the server closes."""
        self._plans: dict[str, list[Behaviour]] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    def url(self, path: str) -> str:
        return self.origin + path

    def plan(self, path: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for `path` in these ways, and later ones as usual."""
        with self._lock:
            self._plans.setdefault(path, []).extend(behaviours)

    def count(self, size: int) -> None:
        with self._lock:
            self.bytes_sent += size

    def asked_for(self, path: str) -> list[Asked]:
        with self._lock:
            return [one for one in self.asked if one.path == path]

    def close(self) -> None:
        self.released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            self._spawn(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError), sock:
            with sock.makefile("rb") as file:
                while (asked := self._read(sock, file)) is not None:
                    self._behaviour(asked.path)(asked)
                    if not asked.stays_open:
                        break
        with self._lock:
            self._open.discard(sock)

    def _read(self, sock: socket.socket, file: Any) -> Asked | None:
        line = file.readline().decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while text := file.readline().decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        asked = Asked(self, sock, line, headers)
        asked.body = file.read(int(headers.get("content-length", 0)))
        with self._lock:
            self.asked.append(asked)
        return asked

    def _behaviour(self, path: str) -> Behaviour:
        with self._lock:
            plan = self._plans.get(path)
            return plan.pop(0) if plan else self.default


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    """Start servers that follow a script; they are closed with the module."""
    servers: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        servers.append(ScriptedServer())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(start_server: Callable[[], ScriptedServer]) -> Iterator[ScriptedServer]:
    server = start_server()
    yield server
    server.close()
