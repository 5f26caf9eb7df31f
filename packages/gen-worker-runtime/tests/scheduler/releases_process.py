"""Processes that publish, promote and delete releases and are killed, for the test that runs this.

`<folder> <seed> <kills>`: one after the other opens the ledger and its releases, looks at what it
finds, publishes and moves tags, and is killed at a random moment. What is wrong goes to the
standard output, one line each; the last line tells what was done.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
from functools import partial
from pathlib import Path

import msgspec
from forking import forked, reap

from gen_worker.manifest import dump_lock
from gen_worker.runtime.scheduler import Ledger
from gen_worker.runtime.scheduler.releases import ReleaseInUseError, Releases

PUBLISHERS = 2
_LOCK = dump_lock(
    {
        "lock_version": 1,
        "endpoint_name": "paint",
        "functions": [{"name": name, "module": "paint"} for name in ("draw", "erase")],
    }
).encode()


class Fact(msgspec.Struct, array_like=True):
    """What somebody was told."""

    what: str
    """`ready`, `published`, `promoted`, `deleting` or `wrong`."""
    detail: str = ""


class Publisher:
    def __init__(self, folder: Path, releases: Releases, rng: random.Random, pipe: int) -> None:
        self.folder = folder
        self.releases = releases
        self.rng = rng
        self.pipe = pipe

    def tell(self, what: str, detail: str = "") -> None:
        os.write(self.pipe, msgspec.json.encode(Fact(what, detail)) + b"\n")

    async def look(self) -> None:
        """Say what is wrong with what is here."""
        rows = {record.release_id for record in await self.releases.releases()}
        on_disk = set(os.listdir(self.folder / "releases/releases"))
        if on_disk != rows:
            self.tell("wrong", f"folders {sorted(on_disk)} and rows {sorted(rows)} differ")
        if os.listdir(self.folder / "releases/work"):
            self.tell("wrong", "something half done is left")
        for release_id in rows:
            await self.releases.stored(release_id)
        for target in await self.releases.tags.targets():
            if target.release_id not in rows:
                self.tell("wrong", f"{target} points to nothing")
            name = f"{target.owner}/{target.endpoint}/{target.function}:{target.tag}"
            if self.releases.tags.resolve(name).release_id != target.release_id:
                self.tell("wrong", f"{name} means something else")

    async def work(self, project: Path) -> None:
        rng, releases = self.rng, self.releases
        while True:
            source = project / "src"
            source.mkdir(parents=True, exist_ok=True)
            (source / f"part{rng.randrange(4)}.py").write_bytes(
                rng.randbytes(rng.choice((3, 9000)))
            )
            published = await releases.publish(
                project, lock=_LOCK, environment="cpu", owner="acme", first_tag="prod"
            )
            release_id = published.record.release_id
            self.tell("published", release_id)
            if rng.random() < 0.6:
                await releases.tags.promote("acme", "paint", release_id)
                self.tell("promoted", release_id)
            if rng.random() < 0.4:
                await self.delete_some()

    async def delete_some(self) -> None:
        records = await self.releases.releases()
        chosen = self.rng.choice(records[2:] or records).release_id
        self.tell("deleting", chosen)
        try:
            await self.releases.delete("acme", "paint", chosen)
        except (ReleaseInUseError, LookupError):
            return


async def work(folder: Path, seed: str, pipe: int) -> None:
    ledger = await Ledger.open(folder)
    releases = await Releases.open(folder / "releases", ledger)
    publishers = [
        Publisher(folder, releases, random.Random(f"{seed}-{number}"), pipe)
        for number in range(PUBLISHERS)
    ]
    await publishers[0].look()
    rows = [record.release_id for record in await releases.releases()]
    publishers[0].tell("ready", " ".join(rows))
    await asyncio.gather(
        *(one.work(folder / f"project{number}") for number, one in enumerate(publishers))
    )


def facts_of(pid: int, pipe: int, count: int, moment_s: float) -> list[Fact]:
    """Kill a process a moment after it has said so much; return all that it said."""
    content = b""
    while content.count(b"\n") < count and (more := os.read(pipe, 65536)):
        content += more
    # The moment is arbitrary: whatever the process does then is what the kill cuts off.
    select.select([], [], [], moment_s)
    os.kill(pid, signal.SIGKILL)
    while more := os.read(pipe, 65536):
        content += more
    os.close(pipe)
    reap(pid)
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [msgspec.json.decode(line, type=Fact) for line in lines]


def main(folder: Path, seed: str, kills: int) -> None:
    rng = random.Random(f"kill-{seed}")
    published: set[str] = set()
    deleted: set[str] = set()
    promoted = 0
    for kill in range(kills):
        pid, pipe = forked(partial(work, folder, f"{seed}-{kill}"))
        is_last = kill == kills - 1
        count = 6 if is_last else rng.choice((1, 1, 2, 6))
        for fact in facts_of(pid, pipe, count, rng.random() * 0.03):
            if fact.what == "wrong":
                print(f"after kill {kill}: {fact.detail}")
            elif fact.what == "ready" and (lost := published - deleted - {*fact.detail.split()}):
                print(f"after kill {kill}: {sorted(lost)} were published and are gone")
            published |= {fact.detail} if fact.what == "published" else set()
            deleted |= {fact.detail} if fact.what == "deleting" else set()
            promoted += fact.what == "promoted"
    print(f"done {len(published)} {promoted}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
