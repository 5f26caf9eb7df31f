"""What a dead process left is checked and gone on with; what a live one writes is left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError
from gen_worker.models.fetch import Fetcher, FetchProgress, FileToFetch, Location, RetryLimits
from gen_worker.models.fetch.opening import open_download
from gen_worker.models.net import Opener

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.fetch.download import Download

BLOCK = 32 * 1024
CHUNK = 8 * BLOCK
SIZE = 12 * CHUNK + 77
QUICK = RetryLimits(factor_s=0.0, max_tries=8)

CHILD = textwrap.dedent(
    """
    import sys
    from gen_worker.models.fetch import Fetcher, FileToFetch, Location
    from gen_worker.models.net import Opener

    url, destination, size, digest, connections, chunk = sys.argv[1:]
    opener = Opener(allow_private=True)
    fetcher = Fetcher(opener, connections=int(connections), chunk_bytes=int(chunk), durable=False)
    file = FileToFetch(
        destination=destination, size_bytes=int(size), digest=digest, locations=(Location(url),)
    )
    fetcher.fetch([file], progress=lambda seen: print(seen.bytes_done, flush=True))
    """
)


def b3(data: bytes) -> str:
    return "blake3:" + blake3(data).hexdigest()


def fetcher(connections: int = 4) -> Fetcher:
    opener = Opener(allow_private=True, read_timeout_s=100)
    return Fetcher(opener, connections=connections, chunk_bytes=CHUNK, retries=QUICK, durable=False)


def wanted(tmp_path: Path, server: Any, data: bytes, **more: Any) -> FileToFetch:
    server.files["/f"] = data
    given = {
        "destination": str(tmp_path / "f"),
        "size_bytes": len(data),
        "digest": b3(data),
        "locations": (Location(server.url("/f")),),
        **more,
    }
    return FileToFetch(**given)


def child(file: FileToFetch, connections: int = 4) -> subprocess.Popen[str]:
    """Fetch in another process, which says again and again how many bytes it has written."""
    arguments = [
        file.locations[0].url,
        file.destination,
        str(file.size_bytes),
        file.digest,
        str(connections),
        str(CHUNK),
    ]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True
    )


class Gate:
    """Lets a server send so many bytes in all, then holds every answer back."""

    def __init__(self, server: Any, budget: int) -> None:
        self.server = server
        self.left = budget
        self.reached = threading.Event()
        self.lock = threading.Lock()
        server.default = self.serve

    def serve(self, asked: Any) -> None:
        size = asked.stop - asked.start
        span = f"bytes {asked.start}-{asked.stop - 1}/{len(asked.data)}"
        asked.head(206, Content_Length=size, Content_Range=span)
        at = asked.start
        while at < asked.stop:
            with self.lock:
                step = min(4096, asked.stop - at, self.left)
                self.left -= step
            if not step:
                self.reached.set()
                self.server.released.wait()
                if not self.left:
                    asked.stays_open = False
                    return
            asked.send(asked.data[at : at + step])
            at += step


def await_written(process: subprocess.Popen[str], size: int) -> None:
    """Wait until a child has said that so many bytes are on its disk."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= size:
            return
    raise AssertionError("it ended before that")


def killed_after(file: FileToFetch, server: Any, sent: int, connections: int = 4) -> None:
    """Fetch in a process that is killed once it has written so many bytes, and gets no more."""
    gate = Gate(server, sent)
    process = child(file, connections)
    assert process.stdout is not None
    with process.stdout:
        assert gate.reached.wait(60)
        await_written(process, sent)
        process.kill()
        process.wait()
    server.default = lambda asked: asked.serve()
    server.bytes_sent = 0


@pytest.mark.parametrize(
    ("sent", "connections"),
    [(0, 4), (1000, 4), (CHUNK + 5, 1), (CHUNK + 5, 4), (7 * CHUNK, 4), (SIZE - 1, 2)],
)
def test_a_killed_download_loses_at_most_one_chunk(
    tmp_path: Path, server: Any, sent: int, connections: int
) -> None:
    data = random.Random(sent).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    killed_after(file, server, sent, connections)
    report = fetcher(connections).fetch([file])
    assert Path(file.destination).read_bytes() == data
    assert report.bytes_fetched <= SIZE - sent + CHUNK
    assert os.listdir(tmp_path) == ["f"]


@pytest.fixture(scope="module")
def left_behind(
    tmp_path_factory: pytest.TempPathFactory, start_server: Callable[[], Any]
) -> tuple[Path, bytes]:
    """A directory with what a killed download left after eight chunks, and the file's bytes."""
    server, place = start_server(), tmp_path_factory.mktemp("left")
    data = random.Random(3).randbytes(SIZE)
    killed_after(wanted(place, server, data), server, 8 * CHUNK)
    return place, data


@pytest.fixture
def left(tmp_path: Path, left_behind: tuple[Path, bytes]) -> bytes:
    """The same in this test's own directory."""
    shutil.copytree(left_behind[0], tmp_path, dirs_exist_ok=True)
    return left_behind[1]


def partial_of(tmp_path: Path) -> Path:
    (path,) = tmp_path.glob("f.*.part")
    return path


def test_a_byte_damaged_on_disk_refetches_one_block(
    tmp_path: Path, server: Any, left: bytes
) -> None:
    file = wanted(tmp_path, server, left)
    shutil.copytree(tmp_path, tmp_path / "intact")
    intact = fetcher().fetch([wanted(tmp_path / "intact", server, left)]).bytes_fetched
    with partial_of(tmp_path).open("r+b") as part:
        part.seek(2 * BLOCK + 5)
        byte = part.read(1)
        part.seek(-1, os.SEEK_CUR)
        part.write(bytes([byte[0] ^ 1]))
    report = fetcher().fetch([file])
    assert Path(file.destination).read_bytes() == left
    assert report.bytes_fetched == intact + BLOCK


def test_bytes_the_disk_lost_after_a_power_failure_are_noticed(
    tmp_path: Path, server: Any, left: bytes
) -> None:
    file = wanted(tmp_path, server, left)
    with partial_of(tmp_path).open("r+b") as part:
        part.write(bytes(3 * CHUNK))
    report = fetcher().fetch([file])
    assert Path(file.destination).read_bytes() == left
    assert 4 * CHUNK <= report.bytes_fetched <= SIZE - 8 * CHUNK + CHUNK + 4 * CHUNK


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[:-7],
        lambda text: b"",
        lambda text: b"\x00" * len(text),
        lambda text: text.replace(b"p ", b"p 9"),
        lambda text: text + b"p 99999999 " + b"0" * 64 + b"\nnonsense\n",
        lambda text: b'{"size_bytes":1,"block_bytes":65536,"digest":""}\n',
    ],
)
def test_a_damaged_journal_costs_bytes_but_never_the_file(
    tmp_path: Path, server: Any, left: bytes, damage: Any
) -> None:
    file = wanted(tmp_path, server, left)
    (journal,) = tmp_path.glob("f.*.journal")
    journal.write_bytes(damage(journal.read_bytes()))
    fetcher().fetch([file])
    assert Path(file.destination).read_bytes() == left
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.usefixtures("left")
def test_a_partial_of_another_digest_is_not_used(tmp_path: Path, server: Any) -> None:
    data = random.Random(7).randbytes(SIZE)
    report = fetcher().fetch([wanted(tmp_path, server, data)])
    assert report.bytes_fetched == SIZE
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.parametrize("length", [0, 100, BLOCK, 5 * CHUNK + 9, SIZE - 1, SIZE])
def test_a_plain_part_of_an_earlier_program_is_adopted(
    tmp_path: Path, server: Any, length: int
) -> None:
    data = random.Random(8).randbytes(SIZE)
    (tmp_path / "f.part").write_bytes(data[:length])
    report = fetcher().fetch([wanted(tmp_path, server, data)])
    assert (tmp_path / "f").read_bytes() == data
    kept = length if length == SIZE else length // BLOCK * BLOCK
    assert report.bytes_fetched == SIZE - kept
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("junk", [b"x" * SIZE, b"x" * (SIZE + 1), b"x" * (2 * BLOCK)])
def test_a_plain_part_of_something_else_costs_one_clean_fetch(
    tmp_path: Path, server: Any, junk: bytes
) -> None:
    data = random.Random(9).randbytes(SIZE)
    (tmp_path / "f.part").write_bytes(junk)
    report = fetcher().fetch([wanted(tmp_path, server, data)])
    assert (tmp_path / "f").read_bytes() == data
    assert SIZE <= report.bytes_fetched <= 2 * SIZE


def test_a_failed_fetch_of_this_process_is_gone_on_with(tmp_path: Path, server: Any) -> None:
    data = random.Random(10).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    Gate(server, 6 * CHUNK)
    token, written = CancelToken(), threading.Event()
    canceler = threading.Thread(target=lambda: (written.wait(60), token.cancel()))
    canceler.start()

    def watch(seen: FetchProgress) -> None:
        if seen.bytes_done == 6 * CHUNK:
            written.set()

    with pytest.raises(CanceledError):
        fetcher().fetch([file], token=token, progress=watch)
    canceler.join()
    server.default = lambda asked: asked.serve()
    report = fetcher().fetch([file])
    assert report.bytes_fetched <= SIZE - 6 * CHUNK + CHUNK
    assert (tmp_path / "f").read_bytes() == data


def test_a_live_process_is_waited_for_and_its_file_taken(tmp_path: Path, server: Any) -> None:
    data = random.Random(11).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    gate = Gate(server, 4 * CHUNK)
    first = child(file)
    assert first.stdout is not None
    with first.stdout:
        assert gate.reached.wait(60)
        second: list[Any] = []
        waiting = threading.Thread(target=lambda: second.append(fetcher().fetch([file])))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        gate.left = 1 << 60
        server.released.set()
        waiting.join(60)
        assert first.wait(60) == 0
    assert second[0].files[0].was_present
    assert second[0].bytes_fetched == 0
    assert (tmp_path / "f").read_bytes() == data


def test_a_process_that_dies_while_it_is_waited_for_is_succeeded(
    tmp_path: Path, server: Any
) -> None:
    data = random.Random(12).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    Gate(server, 9 * CHUNK)
    first = child(file)
    assert first.stdout is not None
    with first.stdout:
        await_written(first, 9 * CHUNK)
        second: list[Any] = []
        waiting = threading.Thread(target=lambda: second.append(fetcher().fetch([file])))
        waiting.start()
        waiting.join(0.3)
        server.default = lambda asked: asked.serve()
        first.send_signal(signal.SIGKILL)
        first.wait()
        waiting.join(60)
    assert second[0].bytes_fetched <= SIZE - 9 * CHUNK + CHUNK
    assert (tmp_path / "f").read_bytes() == data


def test_two_threads_of_one_process_share_one_download(tmp_path: Path, server: Any) -> None:
    data = random.Random(13).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    reports: list[Any] = []
    threads = [
        threading.Thread(target=lambda: reports.append(fetcher().fetch([file]))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 6
    assert (tmp_path / "f").read_bytes() == data
    assert os.listdir(tmp_path) == ["f"]
    # Two that begin at the same moment may not see each other, and seldom a third.
    assert sum(report.bytes_fetched for report in reports) <= 3 * SIZE


def test_what_somebody_finished_in_between_is_not_fetched_again(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(15).randbytes(SIZE)
    file = wanted(tmp_path, server, data)

    def late(*arguments: Any, **options: Any) -> Download | None:
        (tmp_path / "f").write_bytes(data)
        return open_download(*arguments, **options)

    monkeypatch.setattr("gen_worker.models.fetch.steps.open_download", late)
    report = fetcher().fetch([file])
    assert (report.files[0].was_present, report.bytes_fetched) == (True, 0)
    assert os.listdir(tmp_path) == ["f"]


def test_a_very_long_name(tmp_path: Path, server: Any) -> None:
    data = b"x" * 100
    file = wanted(tmp_path, server, data, destination=str(tmp_path / ("n" * 255)))
    fetcher().fetch([file])
    assert Path(file.destination).read_bytes() == data


def test_a_partial_that_is_taken_away_is_not_written_to_any_more(
    tmp_path: Path, server: Any
) -> None:
    """As when a paused machine wakes up after another one gave it up for dead."""
    data = random.Random(14).randbytes(SIZE)
    file = wanted(tmp_path, server, data)
    gate = Gate(server, 5 * CHUNK)
    reports: list[Any] = []
    written = threading.Event()

    def watch(seen: FetchProgress) -> None:
        if seen.bytes_done == 5 * CHUNK:
            written.set()

    fetching = threading.Thread(
        target=lambda: reports.append(fetcher().fetch([file], progress=watch))
    )
    fetching.start()
    assert written.wait(60)
    mine = partial_of(tmp_path)
    elsewhere = mine.with_name(mine.name.replace(str(os.getpid()), "0", 1))
    taken = tmp_path / "taken"
    taken.mkdir()
    os.rename(mine, taken / elsewhere.name)
    gate.left = 1 << 60
    server.released.set()
    fetching.join(60)
    assert (tmp_path / "f").read_bytes() == data
    assert reports[0].bytes_fetched > SIZE


@pytest.mark.chaos
def test_whoever_is_killed_the_file_arrives(tmp_path: Path, server: Any, seed: int) -> None:
    """Several processes fetch one file; each but the last is killed at a random moment."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    data = chance.randbytes(chance.choice([3 * CHUNK, SIZE, 40 * CHUNK]))
    file = wanted(tmp_path, server, data)
    pace_s = chance.choice([0.0, 0.0005])

    def paced(asked: Any) -> None:
        size = asked.stop - asked.start
        span = f"bytes {asked.start}-{asked.stop - 1}/{len(data)}"
        asked.head(206, Content_Length=size, Content_Range=span)
        for at in range(asked.start, asked.stop, 16_384):
            asked.send(data[at : min(asked.stop, at + 16_384)])
            server.released.wait(pace_s)

    server.default = paced
    kills = chance.randint(1, 4)
    running: list[subprocess.Popen[str]] = []
    for _ in range(kills):
        running += [child(file, chance.choice([1, 2, 4])) for _ in range(chance.randint(1, 2))]
        time.sleep(chance.uniform(0.1, 0.6))
        victim = chance.choice(running)
        victim.kill()
    report = fetcher().fetch([file])
    for process in running:
        assert process.stdout is not None
        with process.stdout:
            assert process.wait(60) in (0, -signal.SIGKILL)
    assert (tmp_path / "f").read_bytes() == data
    assert report.files[0].digest == file.digest
    # One chunk for each kill, and as much again where two began at the same moment.
    assert server.bytes_sent <= (1 + len(running)) * len(data)


@pytest.mark.chaos
def test_each_kill_costs_at_most_one_chunk(tmp_path: Path, server: Any, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(1000 + seed)
    data = chance.randbytes(30 * CHUNK)
    file = wanted(tmp_path, server, data)

    def paced(asked: Any) -> None:
        size = asked.stop - asked.start
        span = f"bytes {asked.start}-{asked.stop - 1}/{len(data)}"
        asked.head(206, Content_Length=size, Content_Range=span)
        for at in range(asked.start, asked.stop, 8192):
            asked.send(data[at : min(asked.stop, at + 8192)])
            server.released.wait(0.002)

    server.default = paced
    for number in range(chance.randint(1, 3)):
        process = child(file, chance.choice([1, 2, 4]))
        assert process.stdout is not None
        with process.stdout:
            until = server.bytes_sent + chance.randint(1, 8 * CHUNK)
            while server.bytes_sent < until and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            process.wait()
            written = max(map(int, process.stdout), default=0)
        aside = tmp_path / f"aside{number}"
        shutil.copytree(tmp_path, aside, ignore=shutil.ignore_patterns("aside*"))
        report = fetcher().fetch([wanted(aside, server, data)])
        assert report.bytes_fetched <= len(data) - written + CHUNK
    fetcher().fetch([file])
    assert (tmp_path / "f").read_bytes() == data
