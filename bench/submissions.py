"""Durable submissions through the scheduler's HTTP API, from 64 connections.

The peer is a bare ASGI application on the same server that sends each body back: it keeps nothing,
so this is the price of parsing, checks and the disk together.

    python bench/submissions.py [--save]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING

import uvloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Row, paired, save, wait_until
from http_load import Site, p50_us, rate

from gen_worker.runtime.scheduler.opening import OWNER
from gen_worker.runtime.scheduler.scheduler import Scheduler
from gen_worker.runtime.scheduler.settings import SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = "bench/peers/http_bare.py"
BODY = b'{"function":"echo-sync","payload":{"text":"hello world"}}'
GOAL = ">= 2,500/s (stretch 6,000)"


async def serve(folder: str) -> None:
    """Be a scheduler with one release and no worker, until stdin ends."""
    lock = os.path.join(folder, "endpoint.lock")
    project = os.path.join(HERE, "echo")
    command = [sys.executable, "-m", "gen_worker.discover", "--root", project, "-o", lock]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    settings = SchedulerSettings(data_dir=folder, http="127.0.0.1:0", workers="127.0.0.1:0")
    scheduler = await Scheduler.open(settings)
    with open(lock, "rb") as file:
        await scheduler.releases.publish(
            project, lock=file.read(), environment="bench", owner=OWNER, first_tag="prod"
        )
    print(scheduler.url.rpartition(":")[2], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await scheduler.close()


def rows(ours: Site, peer: Site) -> list[Row]:
    rejected: list[int] = []
    row = paired(
        "http submissions, 64 clients",
        partial(rate, ours, 64, rejected),
        partial(rate, peer, 64, []),
        unit="/s",
        peer_source=PEER,
        goal=GOAL,
        passes=lambda mine, _b, _c: mine >= 2_500,
    )
    if sum(rejected):
        raise SystemExit(f"{sum(rejected)} submissions were refused")
    alone = paired(
        "one http submission, p50",
        partial(p50_us, ours),
        partial(p50_us, peer),
        unit="us",
        peer_source=PEER,
    )
    return [row, alone]


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends."""
    with subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def main() -> None:
    if "--serve" in sys.argv:
        uvloop.run(serve(sys.argv[-1]))
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with (
        tempfile.TemporaryDirectory(prefix="bench-submissions-") as folder,
        running(__file__, "--serve", folder) as ours,
        running(os.path.join(HERE, "peers/http_bare.py"), str(port)) as peer,
    ):
        assert ours.stdout is not None
        own_port = int(ours.stdout.readline())
        wait_until(lambda: is_listening(port), f"on port {port}", peer)
        measured = rows(Site(own_port, "/v1/requests", BODY, b"202"), Site(port, "/echo", BODY))
    save("submissions", measured)


if __name__ == "__main__":
    main()
