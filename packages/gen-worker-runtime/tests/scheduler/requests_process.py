"""Schedulers that have requests run and are killed, for the tests that run this file.

`<folder> <seed> <kills>`: one after the other opens the folder, goes on with what it finds, takes
new requests and is killed after so many lines; the last one goes on until none is left. Each line
is JSON: `["submitted" or "canceled", <request_id>]` when a client is told so, and
`["told", <request_id>, <event_id>, <name>]` for what its watcher is told.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from forking import forked, reap, show

from gen_worker.errors import RetryableError, classify
from gen_worker.runtime.scheduler import Ending, Ledger, LedgerOptions, NewEvent, Submission
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.requests import RequestOptions, Requests, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler import RequestRecord, StoredEvent
    from gen_worker.runtime.scheduler.requests import Live

OPTIONS = RequestOptions(
    retries=RetryPolicy(first_delay_s=0.002, max_delay_s=0.01), cancel_grace_s=0.01
)
BROKEN = classify(RetryableError("the link broke"))
CLIENTS = 6


class Scheduler:
    """Live requests, whoever runs them, and the pipe to who kills it all."""

    def __init__(self, requests: Requests, pipe: int, rng: random.Random) -> None:
        self.requests = requests
        self.pipe = pipe
        self.rng = rng

    def say(self, *what: Any) -> None:
        os.write(self.pipe, msgspec.json.encode(what) + b"\n")

    # The watcher of all.
    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        for event in events:
            self.say("told", record.request_id, event.event_id, event.name.decode())

    # The runner.
    def wake(self, queue: str) -> None:
        """Look at nothing: whoever is free takes the next."""

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        if self.rng.random() < 0.5:  # the others do not stop
            self.requests.failed(live, live.attempt, BROKEN)

    async def submit(self, name: str) -> None:
        key = self.rng.choice(("", name))
        submission = Submission(
            request_id=name,
            function="f",
            release_id="r",
            payload=b"{}",
            key=key,
            deadline_at=self.rng.choice((None, steady_clock()() + 0.02)),
        )
        twice = [self.requests.submit(submission, JobOptions()) for _ in range(2 if key else 1)]
        for submitted in await asyncio.gather(*twice):
            self.say("submitted", submitted.record.request_id)

    async def cancel(self) -> None:
        live = next(iter(self.requests), None)
        if live is not None and await self.requests.cancel(live.request_id):
            self.say("canceled", live.request_id)

    async def run_one(self) -> None:
        """Do what a worker does with the next request, or with one that is found running."""
        await asyncio.sleep(0)  # of one that is just ending, all there is to wait for is done
        running = next(self.requests.running(), None)
        live = self.requests.take("r/f") or running
        if live is None:
            await asyncio.sleep(0.001)
            return
        if live.place != "worker":
            self.requests.given(live, "w")
        attempt, first = live.attempt, live.record.last_sequence + 1
        for number in range(first, first + self.rng.randrange(4)):
            item = NewEvent(b"delta", b"%d" % number, attempt, number)
            kept = self.requests.produced(live, attempt, (item,))
            if self.rng.random() < 0.5:
                await kept
        if self.rng.random() < 0.4:
            is_worker_lost = self.rng.random() < 0.5
            await self.requests.failed(live, attempt, BROKEN, is_worker_lost=is_worker_lost)
            return
        ending = Ending(status="succeeded", attempt=attempt, is_streamed=True)
        await self.requests.ended(live, attempt, ending, NewEvent(b"result", b"{}", attempt))


async def opened(folder: str, seed: str, pipe: int) -> tuple[Scheduler, Ledger]:
    clock = steady_clock()
    ledger = await Ledger.open(folder, LedgerOptions(behind_s=0.001), clock=clock)
    requests = Requests(ledger, OPTIONS, clock=clock)
    scheduler = Scheduler(requests, pipe, random.Random(seed))
    requests.runner = scheduler
    requests.watch_all(scheduler)
    await requests.start()
    return scheduler, ledger


async def work(folder: str, seed: str, pipe: int) -> None:
    scheduler, _ = await opened(folder, seed, pipe)

    async def client(name: str) -> None:
        count = 0
        while True:
            count += 1
            act = scheduler.rng.random()
            if act < 0.4:
                await scheduler.submit(f"{name}-{count}")
            elif act < 0.45:
                await scheduler.cancel()
            else:
                await scheduler.run_one()

    await asyncio.gather(*(client(f"{seed}-{number}") for number in range(CLIENTS)))


async def finish(folder: str, pipe: int) -> None:
    """End everything."""
    scheduler, ledger = await opened(folder, "last", pipe)
    while len(scheduler.requests):
        await scheduler.run_one()
    await scheduler.requests.close()
    await ledger.close()
    os._exit(0)


def main(folder: str, seed: str, kills: int) -> None:
    rng = random.Random(f"kill-{seed}")
    for kill in range(kills):
        pid, pipe = forked(partial(work, folder, f"{seed}-{kill}"))
        show(pipe, pid, rng.choice((0, 3, 20, 100, 300)))
        reap(pid)
    pid, pipe = forked(partial(finish, folder))
    show(pipe, pid, None)
    print(f"done {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
