"""Jobs of all kinds while everything is killed at random: each ends once for its client."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Service, Site
    from gen_worker.testing.cable import Cable
    from gen_worker.testing.loop_thread import LoopThread

pytestmark = pytest.mark.one_python

WORKERS = 3
PATIENCE_S = 1200.0
MIB = 1024**2
_BYTES_OF_A_JOB = 300
"""In a client's record, more or less."""
APP = """
import random
import time
from collections.abc import Iterator
import msgspec
from gen_worker import RequestContext, RetryableError, ValidationError, inference_function

class Item(msgspec.Struct):
    number: int

class Spell(msgspec.Struct):
    number: int
    count: int

class Flaky(msgspec.Struct):
    number: int
    chance: float

class Slow(msgspec.Struct):
    number: int
    seconds: float

@inference_function
def quick(ctx: RequestContext, payload: Item) -> Item:
    return Item(2 * payload.number)

@inference_function
def spell(ctx: RequestContext, payload: Spell) -> Iterator[Item]:
    for number in range(payload.count):
        yield Item(number)
        if number % 4 == 3:
            time.sleep(0.005)

@inference_function
def flaky(ctx: RequestContext, payload: Flaky) -> Item:
    if random.random() < payload.chance:
        raise RetryableError("by chance")
    return Item(2 * payload.number)

@inference_function
def slow(ctx: RequestContext, payload: Slow) -> Item:
    if ctx.cancel_token.wait(payload.seconds):
        ctx.raise_if_canceled()
    return Item(2 * payload.number)

@inference_function
def wrong(ctx: RequestContext, payload: Item) -> Item:
    raise ValidationError("there is no such number")
"""


class Storm:
    """Does something bad every now and then, until the clients are done."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.rng = random.Random(seed)
        self.between_workers: tuple[Cable, LoopThread] = site.cable(site.worker_address)
        self.between_clients: tuple[Cable, LoopThread] = site.cable(site.url.rpartition("/")[2])
        site.reached = self.between_workers[0].address
        self.happened: list[str] = []
        self.clients: list[Service] = []
        self.records: list[Path] = []

    @property
    def client_url(self) -> str:
        return f"http://{self.between_clients[0].address}"

    def scheduler(self) -> None:
        self.site.scheduler.kill()
        time.sleep(self.rng.random() * 0.3)
        self.site.start()

    def worker(self) -> None:
        self.site.lose_worker(self.rng.choice(self.site.workers))
        self.site.add_worker()

    def all(self) -> None:
        """Kill the scheduler and every worker at the same moment."""
        for service in (self.site.scheduler, *self.site.workers):
            service.send(signal.SIGKILL)
        self.site.scheduler.kill()
        count = len(self.site.workers)
        for worker in list(self.site.workers):
            self.site.lose_worker(worker)
        self.site.start()
        for _ in range(count):
            self.site.add_worker()

    def network(self) -> None:
        cable, loop = self.rng.choice((self.between_workers, self.between_clients))
        loop.call(cable.cut)

    def broken_word(self) -> None:
        """Break the network in the middle of what is said next."""
        cable, loop = self.rng.choice((self.between_workers, self.between_clients))
        more_bytes = self.rng.randint(1, 4000)
        loop.call(lambda: cable.cut_after(more_bytes))

    def still(self) -> None:
        """Carry nothing for a moment."""
        cable, loop = self.rng.choice((self.between_workers, self.between_clients))
        loop.call(cable.stall)
        time.sleep(self.rng.random())
        loop.call(cable.resume)

    def frozen(self) -> None:
        """Have a worker do nothing for a moment, though it is there."""
        worker = self.rng.choice(self.site.workers)
        worker.send(signal.SIGSTOP)
        time.sleep(self.rng.random())
        worker.send(signal.SIGCONT)

    def full_disk(self) -> None:
        self.site.scheduler.fill_disk(is_full=True)
        time.sleep(self.rng.random())
        if self.rng.random() < 0.3:
            self.scheduler()
        self.site.scheduler.fill_disk(is_full=False)

    def clock(self) -> None:
        """Set the clock of the scheduler and its workers back or on, by up to an hour."""
        self.site.jump(self.rng.uniform(-3600, 3600))

    def client(self) -> None:
        client = self.rng.choice(self.clients)
        if client.is_up:
            client.kill()
            client.start()

    def blow(self, kinds: tuple[str, ...], times: int, jobs: int) -> None:
        """Do so many things, the clients getting on in between, and wait until they are done."""
        step = jobs * _BYTES_OF_A_JOB / times
        while self._goes_on and times:
            self._let_pass(self.rng.random() * 2 * step)
            kind = self.rng.choice(kinds)
            self.happened.append(kind)
            getattr(self, kind)()
            self._replace_workers()
            times -= 1
        deadline = time.monotonic() + PATIENCE_S
        while self._goes_on:
            assert time.monotonic() < deadline, self.site.logs()
            self._replace_workers()
            time.sleep(0.1)
        for client in self.clients:
            assert client.process is not None
            assert client.process.returncode == 0, self.site.logs()
            assert client.line() == "done\n"

    @property
    def _goes_on(self) -> bool:
        return any(client.is_up for client in self.clients)

    def _replace_workers(self) -> None:
        """Do as whoever keeps workers does: one that could not start has said why, and ended."""
        for worker in [one for one in self.site.workers if not one.is_up]:
            self.site.lose_worker(worker)
            self.site.add_worker()

    def _let_pass(self, more_bytes: float) -> None:
        """Wait until clients were told some more, or for a while: nothing may be under way."""
        enough = self._told_bytes() + more_bytes
        deadline = time.monotonic() + 30
        while self._goes_on and self._told_bytes() < enough and time.monotonic() < deadline:
            time.sleep(0.02)

    def _told_bytes(self) -> int:
        return sum(record.stat().st_size for record in self.records if record.exists())


HARMLESS = ("worker", "network", "broken_word", "still", "frozen", "client", "full_disk", "clock")
ALL = ("scheduler", "scheduler", "all", *HARMLESS)


def storm(site: Site, seed: int) -> Storm:
    site.has_own_clock()
    site.start()
    site.deploy(APP)
    made = Storm(site, seed)
    for _ in range(WORKERS):
        site.add_worker()
    return made


def run(made: Storm, folder: Path, name: str, seed: int, first: int, count: int) -> list[Path]:
    """Have two clients make so many requests; return their records."""
    half = count // 2
    records = made.records = [folder / f"{name}-{side}.jsonl" for side in "ab"]
    made.clients = [
        made.site.client(made.client_url, records[0], seed, first, half),
        made.site.client(made.site.url, records[1], seed, first + half, count - half),
    ]
    return records


@pytest.mark.chaos
def test_each_request_ends_once_for_its_client(site: Site, tmp_path: Path, seed: int) -> None:
    made = storm(site, seed)
    records = run(made, tmp_path, "one", seed, 0, 80)
    made.blow(ALL, 6, 80)
    site.drained()
    found = site.audit(*records)
    assert found["requests"] >= 80, made.happened


@pytest.mark.chaos
def test_ten_thousand_jobs_leave_nothing_behind(
    site: Site, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """So many in `nox -s chaos`, in CI two hundred of them."""
    seeds = pytestconfig.getoption("seeds")
    count, times = (10_000, 40) if seeds >= 100 else (200, 4)
    made = storm(site, seeds)
    records = run(made, tmp_path, "one", 1, 0, count // 2)
    made.blow(ALL, times, count // 2)
    site.drained()
    level = site.scheduler.resident_bytes()
    records += run(made, tmp_path, "two", 1, count // 2, count // 2)
    made.blow(HARMLESS, times, count // 2)
    site.drained()
    after = site.scheduler.resident_bytes()
    status = site.ask("GET", "/v1/status")["scheduler"]
    found = site.audit(*records)
    print(found, made.happened, level // MIB, after // MIB, status)
    assert found["requests"] >= count
    assert after < level + 32 * MIB
