"""A client with many requests at a time, for the tests that run this file.

`<url> <record> <seed> <first> <count>`: makes the requests numbered from `first` on, each with a
key of its own, and goes on until all have ended. What it is told is appended to the record as lines
of JSON, before it believes it: `["accepted", <key>, <request_id>]`, and
`["ended", <key>, <request_id>, <"result" or "error">, <its data>, <items of its stream>]`. One that
is killed and started again with the same words asks again for all that its record does not have the
end of. A line is printed when all have ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import defaultdict
from typing import Any

import msgspec

from gen_worker.client import AsyncClient, RetryPolicy
from gen_worker.client.errors import CallError, UnreachableError

TOGETHER = 48
PATIENT = RetryPolicy(attempts=10_000, first_s=0.02, max_s=0.5)


class Record:
    """What the client was told, on disk."""

    def __init__(self, path: str) -> None:
        self.ids: defaultdict[str, set[str]] = defaultdict(set)
        self.over: set[str] = set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with open(path, "rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)  # of a line that it was killed in
        for line in content[:whole].splitlines():
            what, key, request_id, *_ = msgspec.json.decode(line)
            self.ids[key].add(request_id)
            if what == "ended":
                self.over.add(key)

    def note(self, *line: Any) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")


def order(seed: int, number: int) -> tuple[str, dict[str, Any]]:
    """Return what the request with this number is: the same for whoever asks."""
    rng = random.Random(f"{seed}-{number}")
    chance = rng.random()
    if chance < 0.55:
        return "quick", {"number": number}
    if chance < 0.75:
        return "spell", {"number": number, "count": rng.randint(1, 12)}
    if chance < 0.9:
        return "flaky", {"number": number, "chance": rng.choice((0.2, 0.5, 1.0))}
    if chance < 0.97:
        return "slow", {"number": number, "seconds": rng.random() * 0.3}
    return "wrong", {"number": number}


async def one(client: AsyncClient, record: Record, seed: int, number: int) -> None:
    """Make one request and follow it to its end."""
    key = f"{seed}-{number}"
    if key in record.over:
        return
    rng = random.Random(f"{os.getpid()}-{key}")
    function, payload = order(seed, number)
    same = [
        client.submit(function, payload, idempotency_key=key)
        for _ in range(2 if rng.random() < 0.1 else 1)
    ]
    for request in await asyncio.gather(*same):
        record.note("accepted", key, request.id)
    if rng.random() < 0.03:
        await request.cancel()
    items: list[str] = []
    async for event in request.events():
        text = event.raw.decode()
        if event.name == "restarted":
            items.clear()
        elif event.name == "delta":
            items.append(text)
        elif event.is_last:
            record.note("ended", key, request.id, event.name, text, items)
        if rng.random() < 0.01:
            await asyncio.sleep(0.05)  # a slow reader


async def main(url: str, path: str, seed: int, first: int, count: int) -> None:
    record = Record(path)
    numbers = iter(range(first, first + count))

    async def some(client: AsyncClient) -> None:
        for number in numbers:
            while True:
                try:
                    await one(client, record, seed, number)
                    break
                except UnreachableError:
                    continue
                except CallError as error:
                    if not error.retryable:
                        raise
                    await asyncio.sleep(0.05)

    async with AsyncClient(url, retry=PATIENT) as client:
        await asyncio.gather(*(some(client) for _ in range(TOGETHER)))
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])))
