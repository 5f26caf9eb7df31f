"""Processes that use one content store and are killed, for the tests that run this file.

`chaos <root> <seed> <kills> <links>`: workers reserve, fetch, build, lease, read, evict and collect
the same snapshots and are killed at random moments; `symbolic` links refuse hard ones.
`crash <root> <scenario> <first> <step>`: a worker is killed right before a file operation of the
scenario, the first, then others each `step` later.

What was seen goes to the standard output, one line per violation. Nothing here has threads before
it forks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from gen_worker.errors import WorkerError
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore, SnapshotInUseError, SnapshotNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = 4


def content_of(name: str) -> bytes:
    return random.Random(name).randbytes(3000)


def snapshot_number(number: int) -> tuple[Snapshot, dict[str, str]]:
    """Return a snapshot that shares blobs with its neighbours, and what its tree holds."""
    import msgspec

    names = {f"shared/{i}.bin": f"shared-{i}" for i in range(number, number + 4)}
    names |= {f"own/{i}.bin": f"own-{number}-{i}" for i in range(3)}
    texts = {path: content_of(name) for path, name in names.items()}
    parts = {f"big.bin.part{i:04d}": content_of(f"part-{number}-{i}") for i in range(2)}
    listed = {
        "original_path": "big.bin",
        "total_bytes": sum(map(len, parts.values())),
        "parts": [{"size_bytes": len(x), "digest": blake3(x).hexdigest()} for x in parts.values()],
    }
    files = {**texts, **parts, "big.bin.parts.json": msgspec.json.encode(listed)}
    texts["big.bin"] = b"".join(parts.values())
    blobs = {blake3(x).hexdigest(): x for x in files.values()}
    CONTENTS.update(blobs)
    snapshot = snapshot_of(
        SnapshotFile(path=path, size_bytes=len(x), blake3=blake3(x).hexdigest())
        for path, x in files.items()
    )
    return snapshot, {path: blake3(x).hexdigest() for path, x in texts.items()}


CONTENTS: dict[str, bytes] = {}
SNAPSHOTS = [snapshot_number(number) for number in range(4)]
EXPECTED = {snapshot.digest: tree for snapshot, tree in SNAPSHOTS}


def damage_of(path: str, expected: dict[str, str]) -> str:
    """Say what is wrong with a tree; nothing when it is whole."""
    found = {}
    for directory, _, names in os.walk(path):
        for name in names:
            full = os.path.join(directory, name)
            with open(full, "rb") as file:
                found[os.path.relpath(full, path)] = blake3(file.read()).hexdigest()
    if found == expected:
        return ""
    wrong = {path for path in found | expected if found.get(path) != expected.get(path)}
    return f"{os.path.basename(path)[:8]}: {sorted(wrong)}"


def fetch(store: ContentStore, file: SnapshotFile) -> None:
    """Put a blob into the store as a downloader does."""
    path = store.blob_path(file.blake3)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.part.{os.getpid()}"
    with open(part, "wb") as target:
        target.write(CONTENTS[file.blake3])
    os.chmod(part, 0o444)
    os.rename(part, path)


def get(store: ContentStore, snapshot: Snapshot) -> Iterator[str]:
    """Lease a snapshot, fetched and built when it is not here."""
    with store.reserve(snapshot):
        for file in store.missing(snapshot):
            fetch(store, file)
        store.build(snapshot)
        with store.lease(snapshot.digest) as path:
            yield path


def use(store: ContentStore, snapshot: Snapshot, report: Callable[[str], None]) -> None:
    """Read a leased snapshot twice: it is whole, and stays."""
    for path in get(store, snapshot):
        for _ in range(2):
            wrong = damage_of(path, EXPECTED[snapshot.digest])
            if wrong:
                report(f"a leased snapshot is not whole: {wrong}")


def read_only(store: ContentStore, snapshot: Snapshot, report: Callable[[str], None]) -> None:
    try:
        with store.lease(snapshot.digest) as path:
            wrong = damage_of(path, EXPECTED[snapshot.digest])
            if wrong:
                report(f"a leased snapshot is not whole: {wrong}")
    except SnapshotNotFoundError:
        return


def remove(store: ContentStore, snapshot: Snapshot, report: Callable[[str], None]) -> None:
    with contextlib.suppress(SnapshotNotFoundError, SnapshotInUseError):
        store.remove(snapshot.digest)


def collect(store: ContentStore, snapshot: Snapshot, report: Callable[[str], None]) -> None:
    store.collect(0)


def verify(store: ContentStore, snapshot: Snapshot, report: Callable[[str], None]) -> None:
    for damage in store.verify():
        report(f"damaged: {damage}")


ACTIONS = [use, use, use, read_only, read_only, remove, collect, verify]


def work(root: str, seed: str, report: Callable[[str], None]) -> None:
    rng = random.Random(seed)
    store = ContentStore(root, reserve_bytes=0)
    while True:
        action, (snapshot, _) = rng.choice(ACTIONS), rng.choice(SNAPSHOTS)
        try:
            action(store, snapshot, report)
        except WorkerError as error:
            report(f"{action.__name__}: {error!r}")
        except BaseException as error:
            report(f"{action.__name__}: {error!r}")
            raise


def forked(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(70)
    return pid


def line(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def chaos(root: str, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    workers = [forked(lambda: work(root, f"{seed}-{i}", line)) for i in range(WORKERS)]  # noqa: B023
    for kill in range(kills):
        time.sleep(rng.uniform(0, 0.03))  # the moment is the point here
        victim = workers.pop(rng.randrange(WORKERS))
        _kill(victim)
        workers.append(forked(lambda: work(root, f"{seed}-k{kill}", line)))  # noqa: B023
    for worker in workers:
        _kill(worker)
    check(root, SNAPSHOTS)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != -signal.SIGKILL:
        line(f"a worker ended by itself with {code}")


def check(root: str, wanted: list[tuple[Snapshot, dict[str, str]]]) -> None:
    """What must hold after any crash; `wanted` are built again."""
    store = ContentStore(root, reserve_bytes=0)
    for digest, tree in EXPECTED.items():
        path = store.snapshot(digest)
        if path is not None and (wrong := damage_of(path, tree)):
            line(f"a present snapshot is not whole: {wrong}")
    for blob in _files(os.path.join(root, "blobs")):
        name = os.path.basename(blob)
        with open(blob, "rb") as file:
            if len(name) == 64 and blake3(file.read()).hexdigest() != name:
                line(f"blob {name[:8]} is not what its name says")
    if any(snapshot.is_leased for snapshot in store.snapshots()):
        line("a dead process holds a lease")
    store.collect()
    left = os.listdir(os.path.join(root, "state", "work")) if store.snapshots() else []
    if left:
        line(f"left over: {left}")
    for snapshot, _ in wanted:
        use(store, snapshot, line)
    if found := store.verify():
        line(f"damaged after all: {found}")
    store.collect(0)
    if store.snapshots():
        line("a snapshot cannot be evicted")


def _files(path: str) -> Iterator[str]:
    for directory, _, names in os.walk(path):
        yield from (os.path.join(directory, name) for name in names)


# File operations that Python announces to audit hooks before it performs them.
OPERATIONS = {
    "open",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.utime",
}


def crash(root: str, scenario: str, first: int, step: int) -> None:
    """Kill a worker before one operation, then another before a later one, until one ends."""
    for count in range(first, 10_000, step):
        prepare(root, scenario)
        pid = forked(lambda: dying(root, scenario, count))  # noqa: B023
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            line(f"done {count}")
            return
        if code != -signal.SIGKILL:
            line(f"operation {count} ended with {code}")
            return
        pid = forked(lambda: recover(root, scenario))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            line(f"nothing works after a crash before operation {count}")
            return


def recover(root: str, scenario: str) -> None:
    if scenario == "repair":  # nobody may have read the bad byte before the crash
        ContentStore(root).verify()
    check(root, SNAPSHOTS[:2])


def prepare(root: str, scenario: str) -> None:
    """Bring the store into the scenario's first state, in a process without threads to inherit."""

    def run() -> None:
        store = ContentStore(root, reserve_bytes=0)
        if scenario != "build":
            for snapshot, _ in SNAPSHOTS[:2]:
                use(store, snapshot, line)
        if scenario == "repair":
            path = store.blob_path(SNAPSHOTS[0][0].files[-1].blake3)
            os.chmod(path, 0o644)
            with open(path, "wb") as file:
                file.write(b"?" * 3000)
            os.chmod(path, 0o444)

    os.waitpid(forked(run), 0)


def dying(root: str, scenario: str, count: int) -> None:
    store = ContentStore(root, reserve_bytes=0)
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in OPERATIONS and str(arguments[0]).startswith(root):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if scenario == "build":
        use(store, SNAPSHOTS[0][0], line)
    elif scenario == "evict":
        store.remove(SNAPSHOTS[0][0].digest)
        store.collect(0)
    else:
        store.verify()
        use(store, SNAPSHOTS[0][0], line)
        use(store, SNAPSHOTS[1][0], line)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "this disk has no hard links")


if __name__ == "__main__":
    if sys.argv[1] == "chaos":
        if sys.argv[5] == "symbolic":
            os.link = refuse
        chaos(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        crash(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
