"""A server with its workers, in a process of its own, that does what its stdin says.

`idle SECONDS`, `load PER_SECOND SECONDS` and `memory`; each is answered with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Protocol

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
TICK_S = 0.002
"""Between two looks which requests are due."""


class Site(Protocol):
    """A server that is measured."""

    async def start(self) -> str:
        """Listen, and return where workers connect to, with a slash and what they run."""
        ...

    async def stop(self) -> None:
        """Let the workers go."""
        ...

    def connected(self) -> int:
        """Return how many workers have all their streams."""
        ...

    def submit(self, number: int, answered: Callable[[], None]) -> None:
        """Have a worker do something."""
        ...


class Paced:
    """Measures one site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.count = 0

    async def load(self, per_s: int, seconds: float) -> dict[str, object]:
        """Submit at a steady rate, and wait for all answers."""
        count = int(per_s * seconds)
        took_ms: list[float] = []
        cpu_s, began = time.process_time(), time.perf_counter()
        sent = 0
        while sent < count:
            due = min(count, int((time.perf_counter() - began) * per_s))
            while sent < due:
                self.site.submit(self.count, self.answered(took_ms))
                self.count += 1
                sent += 1
            await asyncio.sleep(TICK_S)
        while len(took_ms) < count:
            await asyncio.sleep(TICK_S)
        cpu = (time.process_time() - cpu_s) / (time.perf_counter() - began)
        return {"cpu": 100 * cpu, "took_ms": took_ms}

    def answered(self, took_ms: list[float]) -> Callable[[], None]:
        began = time.perf_counter()
        return lambda: took_ms.append(1e3 * (time.perf_counter() - began))

    async def idle(self, seconds: float) -> dict[str, object]:
        cpu_s, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        return {"cpu": 100 * (time.process_time() - cpu_s) / (time.perf_counter() - began)}

    def memory(self) -> dict[str, object]:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return {"mib": pages * os.sysconf("SC_PAGESIZE") / 2**20}

    async def obey(self, command: str, *numbers: float) -> dict[str, object]:
        match command:
            case "load":
                return await self.load(int(numbers[0]), numbers[1])
            case "idle":
                return await self.idle(numbers[0])
            case _:
                return self.memory()


async def serve(site: Site, workers: int) -> None:
    """Have the workers connect, then do what is said until the end of stdin."""
    address = await site.start()
    script = os.path.join(HERE, "swarm.py")
    loop, paced = asyncio.get_running_loop(), Paced(site)
    with subprocess.Popen([sys.executable, script, address, str(workers)]) as swarm:
        try:
            while site.connected() < workers:
                if swarm.poll() is not None:
                    raise SystemExit("the workers have ended")
                await asyncio.sleep(0.05)
            print("{}", flush=True)
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                command, *numbers = line.split()
                answer = await paced.obey(command, *map(float, numbers))
                print(json.dumps(answer), flush=True)
        finally:
            swarm.kill()
            await site.stop()


def run(site: Callable[[], Site], workers: int) -> None:
    async def main() -> None:
        await serve(site(), workers)

    uvloop.run(main())
