"""Processes that use a ledger and are killed, for the tests that run this file.

`<folder> <seed> <kills>`: one after the other opens the ledger, submits, gives out, takes output,
ends and requeues what it finds and what it made, and is killed after so many acknowledgements;
what was acknowledged is compared with what the next one finds, and at the end with everything.

What was wrong goes to the standard output, one line each; the last line tells what was done.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from forking import forked, reap

from gen_worker.runtime.scheduler import (
    Ending,
    Ledger,
    LedgerOptions,
    NewEvent,
    RequestRecord,
    Submission,
)
from gen_worker.runtime.scheduler.schema import EVENT_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 8
_FINAL = (b"result", b"error")


class Fact(msgspec.Struct, array_like=True):
    """What a client was told."""

    what: str
    """`submitted`, `output` or `ended`."""
    request_id: str
    detail: str | int


def payload_of(request_id: str) -> bytes:
    """Return what a request is asked with: from a few bytes to more than pages of the log."""
    rng = random.Random(request_id)
    return rng.randbytes(rng.choice((1, 40, 400, 6000, 40_000)))


class Client:
    """Works on one request after the other, and says what it was told."""

    def __init__(self, ledger: Ledger, rng: random.Random, name: str, pipe: int) -> None:
        self.ledger = ledger
        self.rng = rng
        self.name = name
        self.pipe = pipe

    def tell(self, what: str, request_id: str, detail: str | int) -> None:
        os.write(self.pipe, msgspec.json.encode(Fact(what, request_id, detail)) + b"\n")

    async def work(self, found: list[RequestRecord]) -> None:
        count = 0
        while True:
            if found and self.rng.random() < 0.5:
                record = found.pop()
            else:
                count += 1
                record = await self.submit(f"{self.name}-{count}")
            await self.live(record)

    async def submit(self, request_id: str) -> RequestRecord:
        key = f"key-{request_id}" if self.rng.random() < 0.3 else ""
        payload = payload_of(request_id)
        submission = Submission(request_id=request_id, function="f", key=key, payload=payload)
        record, is_new = await self.ledger.submit(submission)
        self.tell("submitted", request_id, sha256(payload).hexdigest())
        if not is_new:
            self.tell("wrong", request_id, "it is not new")
        if key:
            again = await self.ledger.submit(msgspec.structs.replace(submission, request_id="x"))
            if again.record.request_id != request_id:
                self.tell("wrong", request_id, "its key made another request")
        return record

    async def live(self, record: RequestRecord) -> None:
        rng, ledger, seq, attempt = self.rng, self.ledger, record.seq, record.attempt
        sequence = record.last_sequence
        for _ in range(rng.randrange(4)):
            if rng.random() < 0.2:
                requeued = await ledger.requeue(seq, attempt, due_at=0.0)
                if requeued is None:
                    self.tell("wrong", record.request_id, "it cannot be requeued")
                attempt, sequence = attempt + 1, 0
            ledger.assign(seq, "w", attempt, at=0.0)
            items = [
                NewEvent(b"delta", b"{}", attempt, sequence + number)
                for number in range(rng.randrange(3))  # the first was said before
            ]
            for event in await ledger.append(seq, items):
                self.tell("output", record.request_id, event.event_id)
            sequence = max(sequence, sequence + len(items) - 1)
        if rng.random() < 0.7:
            await self.end(record)

    async def end(self, record: RequestRecord) -> None:
        ends = [
            self.ledger.end(record.seq, Ending(status="succeeded"), NewEvent(b"result", b"{}")),
            self.ledger.end(record.seq, Ending(status="canceled"), NewEvent(b"error", b"{}")),
        ]
        first, second = await asyncio.gather(*ends)
        if first is None or second is not None:
            self.tell("wrong", record.request_id, f"it ended {first} and {second}")
        self.tell("ended", record.request_id, "succeeded")


async def work(folder: str, seed: str, pipe: int) -> None:
    rng = random.Random(seed)
    ledger = await Ledger.open(folder, LedgerOptions(behind_s=0.001))
    found: list[RequestRecord] = []
    while page := await ledger.unfinished(after=found[-1].seq if found else 0):
        found += page
    rng.shuffle(found)
    os.write(pipe, b"[]\n")
    clients = [Client(ledger, rng, f"{seed}-{number}", pipe) for number in range(CLIENTS)]
    await asyncio.gather(*(client.work(found) for client in clients))


def lines(pipe: int, pid: int, count: int) -> Iterator[bytes]:
    """Yield what a process says; kill it once it has said so much, and yield the rest."""
    with open(pipe, "rb") as file:
        for number, line in enumerate(file):
            if number == count:
                os.kill(pid, signal.SIGKILL)
            if line.endswith(b"\n"):
                yield line
    reap(pid)


def check(folder: str, facts: list[Fact]) -> Iterator[str]:
    """Compare what clients were told with what is in the database; yield what is wrong."""
    uri = f"file:{folder}/scheduler.db?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            yield "the database is not whole"
        names = (
            "seq, request_id, status, last_event_id, size_bytes, ended_at IS NOT NULL, "
            "(SELECT payload FROM calls WHERE calls.seq = requests.seq)"
        )
        rows = {row[1]: row for row in database.execute(f"SELECT {names} FROM requests")}
        events: dict[int, list[tuple[int, bytes]]] = {}
        for key, name in database.execute("SELECT key, name FROM events ORDER BY key"):
            events.setdefault(key >> EVENT_BITS, []).append((key % (1 << EVENT_BITS), name))
        counts = database.execute("SELECT count(*) FROM calls").fetchone()
    if counts != (len(rows),) or not events.keys() <= {row[0] for row in rows.values()}:
        yield "there is half a request"
    for row in rows.values():
        yield from _wrong_with(row, events.get(row[0], []))
    for fact in facts:
        yield from _untrue(fact, rows.get(fact.request_id))


def _wrong_with(row: tuple[Any, ...], events: list[tuple[int, bytes]]) -> Iterator[str]:
    _, request_id, status, last_event_id, size_bytes, has_ended, payload = row
    if payload != payload_of(request_id):
        yield f"{request_id} has another payload"
    names = [name for _, name in events]
    finals = [name for name in names if name in _FINAL]
    expected = {"succeeded": [b"result"], "canceled": [b"error"]}.get(status, [])
    if finals != expected or finals != names[len(names) - len(finals) :]:
        yield f"{request_id} is {status} with {names}"
    if has_ended != bool(finals):
        yield f"{request_id} is {status}, and ended: {has_ended}"
    if [number for number, _ in events] != list(range(1, last_event_id + 1)):
        yield f"{request_id} has events {events} up to {last_event_id}"
    if size_bytes < len(payload):
        yield f"{request_id} has {size_bytes} bytes"


def _untrue(fact: Fact, row: tuple[Any, ...] | None) -> Iterator[str]:
    if row is None:
        yield f"{fact.request_id} was {fact.what} and is gone"
    elif fact.what == "submitted" and fact.detail != sha256(row[6]).hexdigest():
        yield f"{fact.request_id} was submitted with another payload"
    elif fact.what == "output" and int(fact.detail) > row[3]:
        yield f"{fact.request_id} had shown {fact.detail} of {row[3]} events"
    elif fact.what == "ended" and fact.detail != row[2]:
        yield f"{fact.request_id} was {fact.detail} and is {row[2]}"
    elif fact.what == "wrong":
        yield f"{fact.request_id}: {fact.detail}"


def main(folder: str, seed: str, kills: int) -> None:
    rng = random.Random(f"kill-{seed}")
    facts: list[Fact] = []
    for kill in range(kills):
        pid, pipe = forked(partial(work, folder, f"{seed}-{kill}"))
        is_last = kill == kills - 1
        for line in lines(pipe, pid, 300 if is_last else rng.choice((0, 1, 5, 100))):
            if line != b"[]\n":
                facts.append(msgspec.json.decode(line, type=Fact))
        for wrong in check(folder, facts):
            print(f"after kill {kill}: {wrong}")
    ended = sum(fact.what == "ended" for fact in facts)
    print(f"done {ended} {len(facts)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
