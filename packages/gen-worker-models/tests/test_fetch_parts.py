"""The rules of a download, each by itself: waits, stalls, progress, blocks, journals, owners."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError
from gen_worker.models.fetch import (
    Backoff,
    BandwidthLimit,
    DownloadProgress,
    FileToFetch,
    Location,
    ProgressThrottle,
    RetryLimits,
)
from gen_worker.models.fetch.blocks import BlockMap, Fragment, Mark, Segment
from gen_worker.models.fetch.digests import block_hasher, parse_digest
from gen_worker.models.fetch.journal import Header, decode_journal, encode_header, encode_mark
from gen_worker.models.fetch.opening import open_download
from gen_worker.models.fetch.owners import ORPHAN, Owner, is_running, this_process
from gen_worker.models.fetch.partials import Place
from gen_worker.models.fetch.routes import Routes
from gen_worker.models.fetch.stall import StallWatch

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def highest(low: float, high: float) -> float:
    return high


# Waits.


def test_waits_double_up_to_a_cap() -> None:
    clock = Clock()
    backoff = Backoff(RetryLimits(), clock=clock, uniform=highest)
    assert [backoff.next_wait_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.came_forward()
    assert backoff.next_wait_s() == 1


def test_waits_are_fully_random() -> None:
    bounds: list[tuple[float, float]] = []

    def record(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    backoff = Backoff(RetryLimits(), uniform=record)
    for _ in range(3):
        assert backoff.next_wait_s() == 0
    assert bounds == [(0, 1), (0, 2), (0, 4)]


def test_thirty_tries_are_the_end() -> None:
    backoff = Backoff(RetryLimits(), clock=Clock(), uniform=lambda low, high: 0.0)
    assert [backoff.next_wait_s() is None for _ in range(30)] == [False] * 29 + [True]


def test_an_hour_is_the_end() -> None:
    clock = Clock()
    backoff = Backoff(RetryLimits(max_tries=10**9), clock=clock, uniform=highest)
    waited = 0.0
    while (wait_s := backoff.next_wait_s()) is not None:
        waited += wait_s
        clock.now += wait_s
    assert 3570 < waited <= 3600


def test_a_server_may_ask_for_a_longer_wait_within_reason() -> None:
    backoff = Backoff(RetryLimits(), clock=Clock(), uniform=lambda low, high: 0.0)
    assert backoff.next_wait_s(12.0) == 12.0
    assert backoff.next_wait_s(1e9) == 300.0


def test_the_bandwidth_is_kept_over_any_stretch() -> None:
    clock = Clock()
    limit = BandwidthLimit(1000, clock=clock)
    chance, total = random.Random(1), 0
    for _ in range(200):
        size = chance.randint(1, limit.read_bytes // 40)
        total += size
        clock.now += limit.take(size)
        clock.now += chance.choice([0.0, 0.0, 0.05])
        assert total <= 1000 * (clock.now - 1000.0) + 1000 * 0.1 + 1
    assert BandwidthLimit(0).take(10**12) == 0


# Stalls.


def test_a_steady_trickle_below_the_floor_stalls_after_the_window() -> None:
    watch = StallWatch(window_s=10.0, min_bytes_per_s=100.0)
    results = [watch.has_stalled(1.0, 50) for _ in range(12)]
    assert results.index(True) == 9


def test_what_is_fast_enough_never_stalls_and_what_stops_does() -> None:
    watch = StallWatch(window_s=10.0, min_bytes_per_s=100.0)
    assert not any(watch.has_stalled(0.5, 100) for _ in range(1000))
    assert [watch.has_stalled(1.0, 0) for _ in range(12)].index(True) <= 11


def test_one_burst_does_not_pay_for_ever() -> None:
    watch = StallWatch(window_s=10.0, min_bytes_per_s=100.0)
    watch.has_stalled(0.1, 10**9)
    results = [watch.has_stalled(1.0, 0) for _ in range(20)]
    assert results.index(True) <= 12


def test_a_window_of_zero_never_stalls() -> None:
    watch = StallWatch(window_s=0.0, min_bytes_per_s=100.0)
    assert not any(watch.has_stalled(100.0, 0) for _ in range(20))


# Progress.


def told(steps: list[tuple[float, int]], total: int | None) -> list[tuple[float, DownloadProgress]]:
    clock = Clock()
    throttle = ProgressThrottle(clock=clock)
    events = []
    for at, size in steps:
        clock.now = 1000.0 + at
        event = throttle.update(size, total)
        if event is not None:
            events.append((at, event))
    return events


def test_progress_keeps_its_distance() -> None:
    events = told([(step / 10, step * 7) for step in range(1, 1400)], 9800)
    times = [at for at, _ in events]
    assert len(events) <= 25
    for (early, old), (late, new) in itertools.pairwise(events):
        assert late - early >= 1.0
        assert new.percent_complete - old.percent_complete >= 10.0 or late - early >= 5.0
    assert times[0] <= 5.0


def test_progress_never_exceeds_25_events() -> None:
    assert len(told([(float(step), step) for step in range(1, 5000)], 5000)) == 25


def test_no_progress_while_the_total_is_unknown() -> None:
    assert told([(float(step), step) for step in range(100)], None) == []


def test_throughput_is_smoothed_and_gives_the_eta() -> None:
    events = told([(0.0, 500), (1.0, 600), (2.0, 800), (2.5, 900)], 1000)
    at, first = events[0]
    assert (at, first.throughput_bytes_per_sec) == (1.0, 100.0)
    assert first == DownloadProgress(600, 1000, 60.0, 4.0, 100.0)
    _, second = events[1]
    assert second.throughput_bytes_per_sec == pytest.approx(0.3 * 200 + 0.7 * 100)
    assert second.eta_remaining_seconds == pytest.approx(200 / 130, abs=0.1)
    assert len(events) == 2


# Blocks.


def fetch_block(blocks: BlockMap, segment: Segment, *, hashed: bool) -> None:
    segment.fragment = Fragment(block_hasher(), is_prefix=hashed)
    blocks.finish_block(segment, is_hashed=hashed)


@given(st.integers(0, 10_000))
def test_blocks_in_any_order_end_complete(seed: int) -> None:
    """Whatever is taken, given back, split, adopted, rejected: each block is fetched in the end."""
    chance = random.Random(seed)
    blocks = BlockMap(chance.randint(1, 2000), 100)
    blocks.restore(
        Mark("block", chance.randrange(blocks.count + 2), "0" * 64)
        for _ in range(chance.randint(0, 9))
    )
    running: list[Segment] = []
    resets = 0
    for _ in range(3000):
        if blocks.is_complete:
            break
        action = chance.random()
        if action < 0.3:
            segment = blocks.take(chance.randint(1, 8)) or blocks.split(chance.randint(0, 3))
            if segment:
                running.append(segment)
        elif action < 0.8 and running:
            segment = chance.choice(running)
            if segment.index < segment.stop:
                fetch_block(blocks, segment, hashed=segment.index == blocks.frontier)
            if segment.index >= segment.stop:
                blocks.give_back(segment)
                running.remove(segment)
        elif action < 0.85 and running:
            segment = running.pop(chance.randrange(len(running)))
            blocks.give_back(segment)
        elif action < 0.86 and resets < 2:
            resets += 1
            blocks.reset([index for index in range(blocks.count) if chance.random() < 0.3])
            running.clear()
        elif blocks.can_advance:
            if blocks.frontier in blocks.marks and chance.random() < 0.5:
                blocks.reject(blocks.frontier)
            else:
                blocks.advance()
        owned = {index for one in running for index in range(one.index, one.stop)}
        assert len(owned) == sum(one.stop - one.index for one in running)  # nobody shares
        assert 0 <= blocks.bytes_here <= blocks.size_bytes
    assert blocks.is_complete
    assert blocks.bytes_here == blocks.size_bytes
    assert blocks.bytes_missing == 0


def test_an_open_block_keeps_its_bytes() -> None:
    blocks = BlockMap(1000, 100)
    segment = blocks.take(3)
    assert segment is not None
    segment.fragment = Fragment(block_hasher(), is_prefix=True)
    segment.fragment.size_bytes = 40
    blocks.give_back(segment)
    assert blocks.bytes_here == 40
    again = blocks.take(3)
    assert again is not None
    assert (again.index, again.fragment) == (0, segment.fragment)


def test_bytes_that_vanished_from_the_disk_are_fetched_again(tmp_path: Path) -> None:
    file = FileToFetch(destination=str(tmp_path / "f"), size_bytes=3 * 4096)
    download = open_download(
        file, parse_digest(""), block_bytes=4096, durable=False, is_alone=False
    )
    assert download is not None
    download.restore([Mark("claim", index, "") for index in range(3)])
    os.ftruncate(download.partial.fd, 5000)
    buffer = memoryview(bytearray(1000))
    while download.begin_advance():
        download.advance(buffer, lambda: None)
    segment = download.take(10**6)
    assert segment is not None
    assert (segment.index, segment.stop) == (1, 2)
    download.write(segment, memoryview(bytes(4096)))
    download.give_back(segment)
    while download.begin_advance():
        download.advance(buffer, lambda: None)
    segment = download.take(10**6)
    assert segment is not None
    download.write(segment, memoryview(bytes(4096)))
    assert download.is_complete
    download.partial.finish(durable=True)
    assert (tmp_path / "f").read_bytes() == bytes(3 * 4096)
    assert os.listdir(tmp_path) == ["f"]


# Journals.

MARKS = st.lists(
    st.builds(
        Mark,
        st.sampled_from(["prefix", "block"]),
        st.integers(0, 50),
        st.integers(0, 2**256 - 1).map("{:064x}".format),
    ),
    max_size=20,
)
HEADER = Header(size_bytes=1000, block_bytes=4096, digest="blake3:" + "0" * 64)


@given(MARKS)
def test_a_journal_gives_back_the_last_line_of_each_block(marks: list[Mark]) -> None:
    data = encode_header(HEADER) + b"".join(map(encode_mark, marks))
    journal = decode_journal(data)
    assert journal is not None
    assert journal.header == HEADER
    assert {mark.block: mark for mark in journal.marks} == {mark.block: mark for mark in marks}


@given(MARKS, st.integers(0, 3000))
def test_a_torn_journal_is_a_shorter_one(marks: list[Mark], cut: int) -> None:
    data = encode_header(HEADER) + b"".join(map(encode_mark, marks))
    journal = decode_journal(data[:cut])
    known = set(marks)
    assert journal is None or known.issuperset(journal.marks)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_journal(data: bytes) -> None:
    decode_journal(data)
    journal = decode_journal(encode_header(HEADER) + data)
    assert journal is not None


@pytest.mark.parametrize(
    "changed",
    [{"version": 2}, {"size_bytes": 0}, {"block_bytes": 1}, {"block_bytes": 1 << 40}],
)
def test_headers_of_another_kind_are_refused(changed: dict[str, Any]) -> None:
    fields = {"size_bytes": 5, "block_bytes": 4096, "digest": "", **changed}
    assert decode_journal(encode_header(Header(**fields))) is None


# Locations.


def test_routes_go_round_and_know_when_all_failed() -> None:
    a, b, c = (Location(f"http://{name}/") for name in "abc")
    routes = Routes([a, b, a, c])
    assert (routes.pass_over(a), routes.current) == (True, b)
    assert routes.pass_over(a)  # another connection's late failure changes nothing
    assert routes.current == b
    assert (routes.pass_over(b), routes.pass_over(c), routes.current) == (True, False, a)
    routes.give_up(a)
    assert routes.current == b
    assert routes.has_no_ranges(b)
    assert (routes.current, routes.serves_ranges) == (c, True)
    assert not routes.has_no_ranges(c)
    routes.give_up(b)
    routes.give_up(c)
    routes.give_up(c)
    assert routes.current is None


# Owners.


def test_owners_are_told_apart() -> None:
    mine = this_process()
    assert Owner.parse(str(mine)) == mine
    assert Owner.parse("nobody") is None
    assert is_running(mine)
    assert not is_running(mine._replace(start=mine.start + 1))  # the pid was used again
    assert not is_running(ORPHAN)
    assert is_running(mine._replace(scope="0" * 12)) is None
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not is_running(mine._replace(pid=done.pid))


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code = "from gen_worker.models.fetch.owners import this_process; print(this_process())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    child = Owner.parse(done.stdout.strip())
    assert child is not None
    assert child.scope == this_process().scope
    assert not is_running(child)
    with open(f"/proc/{process.pid}/stat", "rb") as file:
        start = int(file.read().rpartition(b")")[2].split()[19])
    owner = Owner(process.pid, start, child.scope)
    assert is_running(owner)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(owner)
    process.communicate()


def test_partials_of_other_machines_live_by_their_heartbeat(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "f"))
    partial = place.create()
    partial.append(b"x")
    partial.leave()
    path = place.part_path(partial.identity, this_process()._replace(scope="0" * 12))
    os.rename(place.part_path(partial.identity, ORPHAN), path)
    assert place.rivals() == [(partial.identity, 1)]
    assert place.adopt() is None
    for old in (path, partial.journal_path):
        os.utime(old, (1, 1))
    assert place.rivals() == []
    adopted = place.adopt()
    assert adopted is not None
    assert adopted.read_journal() == b"x"
    adopted.remove()
    assert os.listdir(tmp_path) == []


def test_a_heartbeat_is_seen_from_elsewhere(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "f"))
    partial = place.create()
    os.utime(partial.journal_path, (1, 1))
    partial.beat()
    assert os.stat(partial.journal_path).st_mtime > 1
    partial.remove()
    partial.beat()


def test_leftovers_are_cleared_away(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "f"))
    for _ in range(3):
        partial = place.create()
        partial.append(b"x")
        partial.leave()
    stray = tmp_path / f"f.{'0' * 24}.journal"
    young = tmp_path / f"f.{'1' * 24}.journal"
    stray.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(stray, (1, 1))
    adopted = place.adopt()
    assert adopted is not None
    assert len(os.listdir(tmp_path)) == 3
    assert young.exists()
    adopted.remove()
    assert os.listdir(tmp_path) == [young.name]


def test_others_files_are_left_alone(tmp_path: Path) -> None:
    names = ["f.1.part", "f.part.part", "fx.part", "f.tmp", "g.part", f"f.{'0' * 24}.x.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    place = Place(str(tmp_path / "f"))
    assert place.rivals() == []
    assert place.adopt() is None
    assert place.adopt_plain() is None
    assert sorted(os.listdir(tmp_path)) == sorted(names)


# Digests.


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "blake3:",
        "blake3:" + "0" * 63,
        "sha256:" + "g" * 64,
        "md5:" + "0" * 32,
        "git-sha1:" + "0" * 64,
        "BLAKE3:" + "0" * 64,
    ],
)
def test_odd_digests_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_digest(text)


def test_digests_are_lower_case() -> None:
    assert parse_digest("sha256:" + "AB" * 32) == ("sha256", "ab" * 32)
