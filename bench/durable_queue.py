"""The scheduler's ledger and queue: what a request on disk costs, and whose turn it is.

The peer of submissions is SQLite alone, with the same rows, indexes, promises and batches. The peer
of dispatch is the same dispatch with few requests queued.

    python bench/durable_queue.py [--save]
"""

from __future__ import annotations

import asyncio
import tempfile
from statistics import median
from time import perf_counter

import uvloop
from harness import Row, paired, save
from peers.sqlite_batches import SqliteBatches

from gen_worker.runtime.scheduler import Ledger, Submission, Ticket, Waiting

PEER = "bench/peers/sqlite_batches.py"
PAYLOAD = b"\x81\xa6prompt\xd9\x60" + b"x" * 96
SUBMISSIONS = {1: 200, 16: 1600, 64: 6400}
"""Of one block, by how many clients submit at once."""
SINGLES = 100
"""Of one block."""
QUEUED = {"few": 1_000, "many": 100_000}
DISPATCHES = 250
"""Of one block."""
OWNERS = 20
GOAL = ">= 5,000/s (stretch 20,000), >= 0.6 x (stretch 0.8)"


def is_reached(ours: float, _: float, ratio: float) -> bool:
    return ours >= 5_000 and ratio >= 0.6


class Bench:
    """Our ledger, and SQLite alone, on the same disk."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: str) -> None:
        self.loop = loop
        self.folder = folder
        self.count = 0

    def open(self, name: str) -> Ledger:
        return self.loop.run_until_complete(Ledger.open(f"{self.folder}/{name}"))

    def close(self, ledger: Ledger) -> None:
        self.loop.run_until_complete(ledger.close())

    def submission(self) -> Submission:
        self.count += 1
        return Submission(
            request_id=f"bench-{self.count}",
            owner="acme",
            endpoint="paint",
            function="draw",
            tag="prod",
            release_id="r-1",
            payload=PAYLOAD,
        )

    # -- submissions -------------------------------------------------------------------------------

    async def client(self, ledger: Ledger, count: int) -> None:
        for _ in range(count):
            await ledger.submit(self.submission())

    async def rate(self, ledger: Ledger, clients: int) -> float:
        share = SUBMISSIONS[clients] // clients
        began = perf_counter()
        await asyncio.gather(*(self.client(ledger, share) for _ in range(clients)))
        return share * clients / (perf_counter() - began)

    def submissions(self, clients: int) -> Row:
        ledger, peer = self.open(f"ledger-{clients}"), SqliteBatches(self.new_folder(), PAYLOAD)
        is_loaded = clients == max(SUBMISSIONS)
        row = paired(
            f"durable submissions, {clients} clients",
            lambda: self.loop.run_until_complete(self.rate(ledger, clients)),
            lambda: peer.rate(SUBMISSIONS[clients], clients),
            unit="/s",
            peer_source=PEER,
            goal=GOAL if is_loaded else "",
            passes=is_reached if is_loaded else None,
        )
        self.close(ledger)
        return row

    def single(self) -> Row:
        ledger, peer = self.open("ledger-single"), SqliteBatches(self.new_folder(), PAYLOAD)

        async def ours() -> float:
            spent: list[float] = []
            for _ in range(SINGLES):
                began = perf_counter()
                await ledger.submit(self.submission())
                spent.append(1e3 * (perf_counter() - began))
            return median(spent)

        row = paired(
            "one submission, p50",
            lambda: self.loop.run_until_complete(ours()),
            lambda: median(1e3 / peer.rate(1, 1) for _ in range(SINGLES)),
            unit="ms",
            peer_source=PEER,
            goal="<= 2 ms (stretch 1)",
            passes=lambda ours, _b, _c: ours <= 2,
        )
        self.close(ledger)
        return row

    def new_folder(self) -> str:
        return tempfile.mkdtemp(dir=self.folder)

    # -- dispatch ----------------------------------------------------------------------------------

    async def queue(self, name: str) -> Queue:
        queue = Queue(await Ledger.open(f"{self.folder}/{name}"))
        asked = [self.submission() for _ in range(QUEUED[name])]
        for start in range(0, len(asked), 1000):
            some = await asyncio.gather(*map(queue.ledger.submit, asked[start : start + 1000]))
            for submitted in some:
                queue.push(submitted.record.seq, submitted.record.request_id)
        return queue

    def dispatch(self) -> Row:
        few, many = (self.loop.run_until_complete(self.queue(name)) for name in QUEUED)
        row = paired(
            f"dispatch: {QUEUED['many']:,} queued against {QUEUED['few']:,}",
            lambda: self.loop.run_until_complete(many.dispatch()),
            lambda: self.loop.run_until_complete(few.dispatch()),
            unit="us",
            peer_source="bench/durable_queue.py",
            goal="<= 1.5 x",
            passes=lambda _a, _b, ratio: ratio <= 1.5,
        )
        for queue in (few, many):
            self.close(queue.ledger)
        return row


class Queue:
    """Requests that wait, in memory and on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.waiting = Waiting()
        self.attempts: dict[int, int] = {}

    def push(self, seq: int, request_id: str) -> None:
        self.attempts[seq] = self.attempts.get(seq, 0) + 1
        owner = f"owner-{seq % OWNERS}"
        self.waiting.push(Ticket(seq, request_id, "draw", owner, seq % 3, float(seq)))

    async def dispatch(self) -> float:
        """Pick requests, read what their workers are given and note who has them; in us of each.

        What was picked is put back afterwards, so that as many wait as before.
        """
        picked: list[Ticket] = []
        began = perf_counter()
        for _ in range(DISPATCHES):
            ticket = self.waiting.pop("draw")
            assert ticket is not None
            call = await self.ledger.call(ticket.seq)
            assert call is not None
            self.ledger.assign(ticket.seq, "worker", self.attempts[ticket.seq], at=began)
            picked.append(ticket)
        await self.ledger.flush()
        spent = perf_counter() - began
        for ticket in picked:
            attempt = self.attempts[ticket.seq]
            assert await self.ledger.requeue(ticket.seq, attempt, due_at=0.0) is not None
            self.push(ticket.seq, ticket.request_id)
        return 1e6 * spent / DISPATCHES


def main() -> None:
    loop = uvloop.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as folder:
        bench = Bench(loop, folder)
        rows = [bench.submissions(clients) for clients in SUBMISSIONS]
        rows += [bench.single(), bench.dispatch()]
    loop.close()
    save("durable_queue", rows)


if __name__ == "__main__":
    main()
