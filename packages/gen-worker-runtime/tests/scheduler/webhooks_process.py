"""Schedulers that tell receivers of requests and are killed, for the tests that run this file.

`<folder> <seed> <kills> <url>`: one after the other opens the folder, ends what it finds and what
it submits, tells the receiver, and is killed after so many acknowledgements or attempts; the last
one goes on until nothing is pending. Each end and each submission that was acknowledged is printed,
one line of JSON each: `["submitted" or "ended", <request_id>]`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from forking import forked, reap, show

from gen_worker.runtime.scheduler import Ending, Ledger, LedgerOptions, NewEvent, Submission
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.job_options import JobOptions, Webhook
from gen_worker.runtime.scheduler.requests import Requests
from gen_worker.runtime.scheduler.webhooks import WebhookOptions, Webhooks, WebhookSecrets

if TYPE_CHECKING:
    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler import RequestRecord
    from gen_worker.runtime.scheduler.requests import Live

OPTIONS = WebhookOptions(first_retry_s=0.005, max_retry_s=0.02, timeout_s=0.5)
CLIENTS = 4


class Nobody:
    """Runs no request: clients do."""

    def wake(self, queue: str) -> None:
        """Look at nothing."""

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        """Interrupt nothing."""


async def answer(record: RequestRecord) -> bytes:
    return msgspec.json.encode({"request_id": record.request_id, "status": record.status})


class Scheduler:
    """All that webhooks need of one."""

    def __init__(self, ledger: Ledger, requests: Requests, url: str, pipe: int) -> None:
        self.ledger = ledger
        self.requests = requests
        self.url = url
        self.pipe = pipe

    def tell(self, what: str, request_id: str) -> None:
        os.write(self.pipe, msgspec.json.encode((what, request_id)) + b"\n")

    async def submit(self, request_id: str, rng: random.Random) -> None:
        events = rng.choice(((), ("completed",), ("started", "completed")))
        options = JobOptions(webhook=Webhook(url=self.url, events=events))
        submission = Submission(request_id=request_id, function="f", release_id="r", payload=b"{}")
        await self.requests.submit(submission, options)
        self.tell("submitted", request_id)

    async def end_one(self) -> bool:
        """End a request: one that some worker has had, or the next."""
        live = next(self.requests.running(), None) or self.requests.take("r/f")
        if live is None:
            return False
        if live.place != "worker":
            self.requests.given(live, "w")
        event = NewEvent(b"result", b'{"output":1}')
        ending = Ending(status="succeeded", attempt=live.attempt)
        self.requests.ended(live, live.attempt, ending, event)
        while not live.is_over:
            await self.ledger.flush()
        self.tell("ended", live.request_id)
        return True


async def open_all(folder: str, url: str, pipe: int) -> tuple[Scheduler, Webhooks]:
    ledger = await Ledger.open(folder, LedgerOptions(behind_s=0.001))
    requests = Requests(ledger, clock=steady_clock())
    requests.runner = Nobody()
    secrets = WebhookSecrets(os.path.join(folder, "webhook-secrets"))
    webhooks = Webhooks(ledger, requests, answer, secrets, OPTIONS)
    await requests.start()
    await webhooks.start()
    return Scheduler(ledger, requests, url, pipe), webhooks


async def work(folder: str, seed: str, url: str, pipe: int) -> None:
    rng = random.Random(seed)
    scheduler, _ = await open_all(folder, url, pipe)

    async def client(name: str) -> None:
        count = 0
        while True:
            if rng.random() < 0.5 or not await scheduler.end_one():
                count += 1
                await scheduler.submit(f"{name}-{count}", rng)
            await asyncio.sleep(rng.random() * 0.01)

    await asyncio.gather(*(client(f"{seed}-{number}") for number in range(CLIENTS)))


async def finish(folder: str, url: str, pipe: int) -> None:
    """End everything, and tell of it."""
    scheduler, webhooks = await open_all(folder, url, pipe)
    while await scheduler.end_one():
        continue
    await scheduler.ledger.flush()
    while await webhooks.pending() or not await scheduler.ledger.ask(_is_quiet):
        await asyncio.sleep(0.01)
    await scheduler.requests.close()
    await webhooks.close()
    await scheduler.ledger.close()
    os._exit(0)


def _is_quiet(connection: object) -> bool:
    """Whether no end is still to be noticed."""
    query = "SELECT count(*) FROM webhooks WHERE state = 'waiting'"
    (count,) = connection.execute(query).fetchone()  # type: ignore[attr-defined]
    return not count


def main(folder: str, seed: str, kills: int, url: str) -> None:
    rng = random.Random(f"kill-{seed}")
    for kill in range(kills):
        pid, pipe = forked(partial(work, folder, f"{seed}-{kill}", url))
        show(pipe, pid, rng.choice((0, 1, 3, 10, 40)))
        reap(pid)
    pid, pipe = forked(partial(finish, folder, url))
    show(pipe, pid, None)
    print(f"done {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
