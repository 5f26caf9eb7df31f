"""A network that breaks anywhere: what arrives is right, what does not is told, nothing stays."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest
from blake3 import blake3

from gen_worker.context.local import run_blocking
from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub import Clock, HubClient
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.types import Asset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Hub, MakeFiles
    from gen_worker.cancel import CancelToken

PART = 64 * 1024
CUT_OF = 4
"""One connection of so many is cut."""


class BreakingNetwork:
    """Passes connections on to a server, and cuts some after a random number of bytes."""

    def __init__(self, target: str, seed: int) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), parts.port or 80)
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.cuts = 0
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, function: Any, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
                is_cut = self._chance.randrange(CUT_OF) == 0
                bound = self._chance.randrange(2 * PART) if is_cut else None
                self.cuts += is_cut
            for one, other in ((client, server), (server, client)):
                self._spawn(self._pass, one, other, bound)

    def _pass(self, source: socket.socket, target: socket.socket, bound: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(8192):
                if bound is not None and (bound := bound - len(data)) < 0:
                    break
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source}
        source.close()


@pytest.fixture
def network(hub: Hub, request: pytest.FixtureRequest) -> Iterator[BreakingNetwork]:
    network = BreakingNetwork(hub.url, request.getfixturevalue("seed"))
    yield network
    network.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client wait for hardly any time between its tries."""

    def sleep(_seconds: float, token: CancelToken | None) -> None:
        time.sleep(0.001)
        if token is not None:
            token.raise_if_canceled()

    defaults: Any = HubClient.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clock", Clock(sleep=sleep))


@pytest.mark.chaos
@pytest.mark.usefixtures("impatient")
def test_files_survive_a_network_that_breaks(
    hub: Hub, make_files: MakeFiles, network: BreakingNetwork, seed: int
) -> None:
    files = make_files(
        upload_backoff_s=0.001, download_backoff_s=0.001, download_tries=8, cache_bytes=0
    )
    scope = msgspec.structs.replace(hub.scope(), base_url=network.origin)
    chance = random.Random(seed)
    arrived = 0
    for number in range(8):
        request_id = f"r{seed}-{number}"
        files.enter(request_id, scope)
        data = chance.randbytes(chance.randrange(5 * PART))
        ref = f"jobs/{request_id}/outputs/x"
        with suppress(ArtifactTransferError):
            saving = files.save(ref, data, SaveOptions(), request_id=request_id)
            assert run_blocking(saving).blake3 == blake3(data).hexdigest()
            taking = files.materialize(Asset(ref=ref), FileLimits(), request_id=request_id)
            found: Any = run_blocking(taking)
            assert found.read_bytes() == data
            arrived += 1
        directory = files.requests.get(request_id).directory
        run_blocking(files.release(request_id))
        assert not os.path.exists(directory)
    assert network.cuts
    assert arrived >= 6
    assert len(files.requests) == 0
