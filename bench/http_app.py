"""`gen-worker serve --http` against a bare ASGI application on the same server, and FastAPI.

All run at once, each in its own process; one driver loads two of them in alternating blocks. The
rows with FastAPI need it installed, and are left out where it is not.

Usage: http_app.py [--save] [latency] [bare] [leaving] [fastapi] [drain]; by default all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

import uvloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BLOCKS, Row, paired, paired_latencies, save, wait_until
from http_load import BODY, STREAM_ITEMS, Site, items_per_s, p50_us, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
BARE = "bench/peers/http_bare.py"
FASTAPI = "bench/peers/http_fastapi.py"
HOP_ROUNDS = 2000


def _hop_us() -> float:
    """Return what a hop to a thread and back takes at the least, in microseconds."""
    there: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    async def main() -> float:
        loop = asyncio.get_running_loop()

        def work() -> None:
            while (future := there.get()) is not None:
                loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=work)
        thread.start()
        spent = []
        for _ in range(HOP_ROUNDS):
            future = loop.create_future()
            start = time.perf_counter()
            there.put(future)
            await future
            spent.append(time.perf_counter() - start)
        there.put(None)
        thread.join()
        return statistics.median(spent) * 1e6

    return uvloop.run(main())


def _bare_and_hop_us(site: Site) -> float:
    return p50_us(site) + _hop_us()


# -- clients that leave ----------------------------------------------------------------------------


async def _disconnect_ms(port: int, _number: int) -> float:
    """Return how long after its client left a held call was canceled, by the server's own clock.

    Both processes read the same monotonic clock.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = b"/hold" if port == _PORTS["bare"] else b"/v1/request/hold"
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%b"
        % (path, len(BODY), BODY)
    )
    await writer.drain()
    log = _LOGS[port]
    assert (await asyncio.to_thread(log.get, True, 10.0)).startswith("holding")
    left_at = time.monotonic()
    writer.transport.abort()
    line = await asyncio.to_thread(log.get, True, 10.0)
    del reader
    return (float(line.rpartition(" ")[2]) - left_at) * 1e3


_PORTS: dict[str, int] = {}
_LOGS: dict[int, SimpleQueue[str]] = {}


# -- ends ------------------------------------------------------------------------------------------


def _drain_s(folder: str, number: int) -> float:
    """Return how long a server lives on after the last stream that was under way at SIGTERM."""
    port = _free_port()
    with _ours(port, folder, f"drain{number}") as server:
        body = b'{"text":"tok ","count":20}'
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(
                b"POST /v1/request/slowly HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                b"accept: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            data = peer.recv(65536)
            server.send_signal(signal.SIGTERM)
            while chunk := peer.recv(65536):
                data += chunk
        ended = time.perf_counter()
        server.wait(30)
        assert data.count(b"event: delta") == 20, data
        return time.perf_counter() - ended


# -- servers ---------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _running(words: list[str], port: int, folder: str) -> Iterator[subprocess.Popen[str]]:
    log: SimpleQueue[str] = SimpleQueue()
    _LOGS[port] = log
    with subprocess.Popen(
        words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        stderr = process.stderr
        assert stderr is not None

        def read() -> None:
            for line in stderr:
                if line.startswith(("holding", "left")):
                    log.put(line)

        threading.Thread(target=read, daemon=True).start()
        try:
            wait_until(lambda: _answers(port), f"on port {port}", process)
            yield process
        finally:
            process.kill()


def _ours(
    port: int, folder: str, name: str
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    own = os.path.join(folder, name)
    os.makedirs(own, exist_ok=True)
    config = os.path.join(HERE, "echo", "endpoint.toml")
    words = [sys.executable, "-m", "gen_worker.cli", "serve", "--config", config]
    return _running([*words, "--http", f"127.0.0.1:{port}"], port, own)


def _peer(
    file: str, port: int, folder: str
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = [sys.executable, os.path.join(os.path.dirname(HERE), file), str(port)]
    return _running(words, port, folder)


# -- rows ------------------------------------------------------------------------------------------


def _latency_rows(ours: int, bare: int) -> Iterator[Row]:
    for name, goal, stretch in (("echo-async", 1.4, 1.2), ("echo-sync", 2.2, 1.8)):
        yield paired(
            f"http {name} p50 c1",
            partial(p50_us, Site(ours, f"/v1/request/{name}")),
            partial(p50_us, Site(bare, "/echo")),
            unit="us",
            peer_source=BARE,
            goal=f"at most {goal}x (stretch {stretch})",
            passes=partial(_is_at_most, goal),
        )
    # The other way to meet the second bar: 20 us more than the peer and a hop to a thread.
    yield paired(
        "http echo-sync p50 c1, peer + thread hop",
        partial(p50_us, Site(ours, "/v1/request/echo-sync")),
        partial(_bare_and_hop_us, Site(bare, "/echo")),
        unit="us",
        peer_source=BARE,
    )


def _is_at_most(bar: float, _ours: float, _peer: float, ratio: float) -> bool:
    return ratio <= bar


def _is_at_least(bar: float, rejected: list[int], _ours: float, _peer: float, ratio: float) -> bool:
    return ratio >= bar and not sum(rejected)


def _throughput_rows(ours: int, fastapi: int) -> Iterator[Row]:
    for name, path, bars in (
        ("echo-async", "/async", (2.0, 3.0)),
        ("echo-sync", "/def", (4.0, 8.0)),
    ):
        for clients in (16, 64):
            rejected: list[int] = []
            row = paired(
                f"http {name} c{clients}, FastAPI",
                partial(rate, Site(ours, f"/v1/request/{name}"), clients, rejected),
                partial(rate, Site(fastapi, path), clients, []),
                unit="1/s",
                peer_source=FASTAPI,
                goal=f"at least {bars[0]:g}x (stretch {bars[1]:g}), none rejected",
                passes=partial(_is_at_least, bars[0], rejected),
            )
            yield row


def _bare_rows(ours: int, bare: int) -> Iterator[Row]:
    for name in ("echo-async", "echo-sync"):
        for clients in (16, 64):
            yield paired(
                f"http {name} c{clients}",
                partial(rate, Site(ours, f"/v1/request/{name}"), clients, []),
                partial(rate, Site(bare, "/echo"), clients, []),
                unit="1/s",
                peer_source=BARE,
            )
    accept = b"accept: text/event-stream\r\n"
    for name in ("stream-async", "stream-sync"):
        yield paired(
            f"http {name} 1 client, items",
            partial(items_per_s, Site(ours, f"/v1/request/{name}"), accept),
            partial(items_per_s, Site(bare, f"/stream/{STREAM_ITEMS}")),
            unit="1/s",
            peer_source=BARE,
            goal="at least 0.9x (stretch 3)",
            passes=partial(_is_at_least, 0.9, []),
        )


def _leaving_row(ours: int, bare: int) -> Row:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return paired_latencies(
            "http disconnect to token",
            runner.get_loop(),
            partial(_disconnect_ms, ours),
            partial(_disconnect_ms, bare),
            peer_source=BARE,
            per_block=10,
            most_ms=5.0,
            stretch_ms=2.0,
        )


def _drain_row(folder: str) -> Row:
    spent = [_drain_s(folder, number) for number in range(BLOCKS)]
    low, middle, high = statistics.quantiles(spent, n=4)
    worst = max(spent)
    name, goal = "http exit after the last stream, worst", "at most 0.5 s"
    return Row(name, "s", worst, 0.5, middle, low, high, BLOCKS, "-", goal, worst <= 0.5)


def main() -> None:
    """Print one row per load, and with `--save` keep them."""
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours, bare = _free_port(), _free_port()
        _PORTS["bare"] = bare
        stack.enter_context(_ours(ours, folder, "ours"))
        stack.enter_context(_peer(BARE, bare, folder))

        def add(name: str, make: Callable[[], object]) -> None:
            if not wanted or name in wanted:
                made = make()
                rows.extend([made] if isinstance(made, Row) else cast("Iterator[Row]", made))

        add("latency", lambda: _latency_rows(ours, bare))
        add("bare", lambda: _bare_rows(ours, bare))
        add("leaving", lambda: _leaving_row(ours, bare))
        if find_spec("fastapi") is not None:
            fastapi = _free_port()
            stack.enter_context(_peer(FASTAPI, fastapi, folder))
            add("fastapi", lambda: _throughput_rows(ours, fastapi))
        add("drain", lambda: _drain_row(folder))
    save("http", rows)


if __name__ == "__main__":
    main()
