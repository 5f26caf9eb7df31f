"""Files arrive whole and right, whatever the server does; what is hopeless ends at once."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import ArtifactTransferError, CanceledError, ValidationError
from gen_worker.models.fetch import (
    BandwidthLimit,
    ConnectionLimit,
    DigestMismatchError,
    DiskError,
    Fetcher,
    FetchProgress,
    FetchReport,
    FileToFetch,
    Location,
    NoSpaceError,
    RetryLimits,
    SizeMismatchError,
)
from gen_worker.models.net import HttpStatusError, Opener, UrlRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 32 * 1024
CHUNK = 8 * BLOCK
QUICK = RetryLimits(factor_s=0.0, max_tries=8)


def bytes_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def b3(data: bytes) -> str:
    return "blake3:" + blake3(data).hexdigest()


def fetcher(**options: Any) -> Fetcher:
    opener = options.pop("opener", None) or Opener(allow_private=True, read_timeout_s=100)
    given = {"connections": 4, "chunk_bytes": CHUNK, "retries": QUICK, "durable": False, **options}
    return Fetcher(opener, **given)


def wanted(tmp_path: Path, server: Any, data: bytes, name: str = "f", **more: Any) -> FileToFetch:
    server.files[f"/{name}"] = data
    given = {
        "destination": str(tmp_path / name),
        "size_bytes": len(data),
        "digest": b3(data),
        "locations": (Location(server.url(f"/{name}")),),
        **more,
    }
    return FileToFetch(**given)


def assert_only(tmp_path: Path, *names: str) -> None:
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def arrives(
    tmp_path: Path, server: Any, data: bytes, *, options: Any = None, **more: Any
) -> FetchReport:
    """Fetch a file and check all that a caller may rely on."""
    file = wanted(tmp_path, server, data, **more)
    report = fetcher(**(options or {})).fetch([file])
    assert Path(file.destination).read_bytes() == data
    assert_only(tmp_path, "f")
    assert report.files[0].size_bytes == len(data)
    return report


@pytest.mark.parametrize(
    "size", [1, 100, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK, 5 * CHUNK + 17], ids=str
)
@pytest.mark.parametrize("connections", [1, 4])
def test_every_size(tmp_path: Path, server: Any, size: int, connections: int) -> None:
    data = bytes_of(size)
    report = arrives(tmp_path, server, data, options={"connections": connections})
    assert report.bytes_fetched == size
    assert report.files[0].digest == b3(data)


@pytest.mark.parametrize("algorithm", ["blake3", "sha256", "git-sha1", ""])
def test_every_digest(tmp_path: Path, server: Any, algorithm: str) -> None:
    data = bytes_of(2 * CHUNK + 5)
    known = {
        "blake3": b3(data),
        "sha256": "sha256:" + hashlib.sha256(data).hexdigest(),
        "git-sha1": "git-sha1:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        "": "",
    }
    report = arrives(tmp_path, server, data, digest=known[algorithm])
    assert report.files[0].digest == (known[algorithm] or b3(data))
    server.plan("/f", lambda asked: asked.serve(flip=3))
    os.unlink(tmp_path / "f")
    if algorithm:
        arrives(tmp_path, server, data, digest=known[algorithm])


def test_an_empty_file_needs_no_request(tmp_path: Path, server: Any) -> None:
    assert arrives(tmp_path, server, b"").bytes_fetched == 0
    assert server.asked == []


@pytest.mark.parametrize("given", [None, 0])
def test_unknown_size(tmp_path: Path, server: Any, given: int | None) -> None:
    data = bytes_of(3 * CHUNK)
    server.plan("/f", lambda asked: asked.serve(most=CHUNK))
    report = arrives(tmp_path, server, data, size_bytes=given)
    assert report.bytes_fetched == len(data) + CHUNK  # it starts again
    assert all(not asked.is_ranged for asked in server.asked)


def test_unknown_size_and_chunks_and_a_body_that_ends_with_its_connection(
    tmp_path: Path, server: Any
) -> None:
    data = bytes_of(300_000)

    def chunked(asked: Any) -> None:
        asked.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(data), 70_001):
            piece = data[start : start + 70_001]
            asked.send(b"%x;note=1\r\n%b\r\n" % (len(piece), piece))
        asked.send(b"0\r\nTrailer: 1\r\n\r\n")

    def until_close(asked: Any) -> None:
        asked.head(200)
        asked.send(data)
        asked.stays_open = False

    server.plan("/f", chunked)
    arrives(tmp_path, server, data, size_bytes=None)
    os.unlink(tmp_path / "f")
    server.plan("/f", until_close)
    arrives(tmp_path, server, data, size_bytes=None)
    assert server.connections == 2


def test_several_files_share_the_connections(tmp_path: Path, server: Any) -> None:
    files = [wanted(tmp_path, server, bytes_of(size, size), f"n{size}") for size in range(1, 40)]
    files.append(wanted(tmp_path, server, bytes_of(9 * CHUNK), "large"))
    report = fetcher().fetch(files)
    assert [one.destination for one in report.files] == [one.destination for one in files]
    assert all(
        server.files["/" + name] == (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)
    )
    assert len(os.listdir(tmp_path)) == len(files)
    # Kept alive: one for each thread, and one more whenever a slow one's work is taken over.
    assert server.connections < len(files) // 2


def test_what_is_there_and_right_is_not_fetched(tmp_path: Path, server: Any) -> None:
    data = bytes_of(CHUNK)
    arrives(tmp_path, server, data)
    before = len(server.asked)
    report = arrives(tmp_path, server, data)
    assert (report.files[0].was_present, report.bytes_fetched) == (True, 0)
    assert len(server.asked) == before
    (tmp_path / "f").write_bytes(b"x" * CHUNK)
    assert not arrives(tmp_path, server, data).files[0].was_present


def test_a_cut_connection_goes_on_at_the_byte_it_was_cut_at(tmp_path: Path, server: Any) -> None:
    data = bytes_of(6 * BLOCK)
    cuts = [1000, BLOCK + 7, BLOCK, 3, 2 * BLOCK]
    server.plan("/f", *[lambda asked, n=n: asked.serve(most=n) for n in cuts])
    report = arrives(tmp_path, server, data, options={"connections": 1})
    assert report.bytes_fetched == len(data)
    assert server.settled().bytes_sent == len(data)


def test_a_server_without_ranges(tmp_path: Path, server: Any) -> None:
    data = bytes_of(10 * CHUNK)
    server.default = lambda asked: asked.whole()
    arrives(tmp_path, server, data)
    server.plan("/f", lambda asked: asked.serve(most=CHUNK))  # breaks once, and starts again
    os.unlink(tmp_path / "f")
    arrives(tmp_path, server, data)


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    tmp_path: Path, server: Any
) -> None:
    file = wanted(tmp_path, server, bytes_of(10 * CHUNK))

    def broken(asked: Any) -> None:
        asked.head(200, Content_Length=len(asked.data))
        asked.send(asked.data[: 5 * CHUNK])
        asked.cut()

    server.default = broken
    with pytest.raises(ArtifactTransferError) as caught:
        fetcher().fetch([file])
    assert caught.value.retryable
    assert len(server.asked) < 30


@pytest.mark.parametrize(
    "span", ["bytes 5-99/{n}", "bytes 0-9", "items 0-1/{n}", "", "bytes 9-2/{n}"]
)
def test_a_wrong_content_range_means_the_whole_file_again(
    tmp_path: Path, server: Any, span: str
) -> None:
    data = bytes_of(3 * CHUNK)

    def wrong(asked: Any) -> None:
        if not asked.is_ranged:
            asked.serve()
            return
        body = asked.data[asked.start : asked.stop]
        asked.head(206, Content_Length=len(body), Content_Range=span.format(n=len(data)))
        asked.send(body)

    server.default = wrong
    arrives(tmp_path, server, data)


def test_a_location_with_ranges_is_preferred(tmp_path: Path, server: Any) -> None:
    data = bytes_of(10 * CHUNK)
    server.files["/whole"] = data
    server.plan("/whole", *[lambda asked: asked.whole()] * 50)
    places = (Location(server.url("/whole")), Location(server.url("/f")))
    arrives(tmp_path, server, data, locations=places)
    assert len(server.asked_for("/whole")) <= 4


def test_a_part_shorter_than_asked_for_is_gone_on_from(tmp_path: Path, server: Any) -> None:
    data = bytes_of(3 * CHUNK)

    def short(asked: Any) -> None:
        asked.stop = min(asked.stop, asked.start + 30_000)
        asked.serve()

    server.default = short
    arrives(tmp_path, server, data)


@pytest.mark.parametrize("lie", [-5, 5])
@pytest.mark.parametrize("is_ranged", [True, False])
def test_a_source_of_another_size(tmp_path: Path, server: Any, lie: int, is_ranged: bool) -> None:
    data = bytes_of(CHUNK)
    file = wanted(tmp_path, server, data)
    server.files["/f"] = data + b"more!" if lie > 0 else data[:-5]
    if not is_ranged:
        server.default = lambda asked: asked.whole()
    with pytest.raises(SizeMismatchError) as caught:
        fetcher().fetch([file])
    assert caught.value.expected_bytes == len(data)
    assert caught.value.actual_bytes == len(data) + lie
    assert not caught.value.retryable
    assert len(server.asked) <= 2
    assert_only(tmp_path)


def test_more_bytes_than_expected_without_any_length(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(CHUNK))

    def endless(asked: Any) -> None:
        asked.head(200)
        asked.send(asked.data + b"!")
        asked.stays_open = False

    server.default = endless
    with pytest.raises(SizeMismatchError):
        fetcher().fetch([file])


def test_a_byte_damaged_in_transit_costs_one_more_fetch(tmp_path: Path, server: Any) -> None:
    data = bytes_of(6 * CHUNK)
    server.plan("/f", lambda asked: asked.serve(flip=asked.start + 5))
    report = arrives(tmp_path, server, data)
    assert report.bytes_fetched == 2 * len(data)


def test_a_byte_damaged_in_transit_costs_one_chunk_where_chunks_have_hashes(
    tmp_path: Path, server: Any
) -> None:
    chunk = 8 * 1024 * 1024
    data = bytes_of(2 * chunk + 1000)
    hashes = [blake3(data[at : at + chunk]).hexdigest() for at in range(0, len(data), chunk)]
    damaged: list[int] = []

    def serve(asked: Any) -> None:
        hit = asked.start <= chunk + 9 < asked.stop and not damaged
        if hit:
            damaged.append(asked.start)
        asked.serve(flip=chunk + 9 if hit else None)

    server.default = serve
    options = {"chunk_bytes": chunk}
    report = arrives(tmp_path, server, data, options=options, chunk_hashes=lambda: hashes)
    assert damaged
    assert report.bytes_fetched == len(data) + chunk


@pytest.mark.parametrize("hashes", [None, [], ["00"] * 3, ["ff" * 32]])
def test_useless_chunk_hashes_do_no_harm(tmp_path: Path, server: Any, hashes: Any) -> None:
    data = bytes_of(6 * CHUNK)
    server.plan("/f", lambda asked: asked.serve(flip=asked.start))
    arrives(tmp_path, server, data, chunk_hashes=lambda: hashes)


def test_a_source_that_is_always_wrong_is_not_fetched_forever(tmp_path: Path, server: Any) -> None:
    data = bytes_of(3 * CHUNK)
    hashes = [blake3(data).hexdigest()]
    file = wanted(tmp_path, server, data, chunk_hashes=lambda: hashes)
    server.default = lambda asked: asked.serve(flip=asked.start)
    with pytest.raises(DigestMismatchError) as caught:
        fetcher().fetch([file])
    assert caught.value.expected == file.digest
    assert not caught.value.retryable
    # Twice, and what was on its way when a slow connection's work was taken over.
    assert server.bytes_sent <= 3 * len(data)
    assert_only(tmp_path)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_url_is_refreshed_and_the_download_goes_on(
    tmp_path: Path, server: Any, status: int
) -> None:
    data = bytes_of(12 * CHUNK)
    server.files["/fresh"] = data
    told: list[int] = []

    def refuse(asked: Any) -> None:
        if len(server.asked_for("/f")) > 3:
            asked.head(status, Content_Length=0)
        else:
            asked.serve()

    def refresh(code: int) -> tuple[Location, ...]:
        told.append(code)
        return (Location(server.url("/fresh")),)

    server.plan("/f", *[refuse] * 50)
    report = arrives(tmp_path, server, data, refresh=refresh)
    assert told == [status]
    assert report.bytes_fetched == len(data)


def test_refused_without_refresh_ends_at_once(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(10), locations=(Location(server.url("/no?sig=s3c")),))
    with pytest.raises(HttpStatusError) as caught:
        fetcher().fetch([file])
    assert caught.value.status_code == 404
    assert "s3c" not in str(caught.value) + repr(caught.value) + repr(file)
    assert len(server.asked) == 1
    assert_only(tmp_path)


def test_refreshing_is_not_endless(tmp_path: Path, server: Any) -> None:
    calls: list[int] = []

    def refresh(code: int) -> tuple[Location, ...]:
        calls.append(code)
        return (Location(server.url(f"/gone{len(calls)}")),)

    file = wanted(tmp_path, server, bytes_of(10), locations=(), refresh=refresh)
    with pytest.raises(HttpStatusError):
        fetcher().fetch([file])
    assert calls == [0, 404, 404, 404, 404]


def test_what_refresh_raises_ends_the_fetch(tmp_path: Path, server: Any) -> None:
    def refresh(code: int) -> tuple[Location, ...]:
        raise RuntimeError("no more")

    file = wanted(tmp_path, server, bytes_of(10), locations=(), refresh=refresh)
    with pytest.raises(RuntimeError, match="no more"):
        fetcher().fetch([file])


def test_no_location_at_all(tmp_path: Path, server: Any) -> None:
    with pytest.raises(ArtifactTransferError, match="no location"):
        fetcher().fetch([wanted(tmp_path, server, bytes_of(10), locations=())])


def test_416_starts_the_file_again(tmp_path: Path, server: Any) -> None:
    data = bytes_of(6 * CHUNK)
    server.plan(
        "/f", lambda asked: asked.serve(most=BLOCK), lambda asked: asked.head(416, Content_Length=0)
    )
    arrives(tmp_path, server, data, options={"connections": 1})


def test_416_forever_ends(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(6 * CHUNK))
    server.default = lambda asked: asked.head(416, Content_Length=0)
    with pytest.raises(HttpStatusError) as caught:
        fetcher().fetch([file])
    assert caught.value.status_code == 416


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, server: Any, status: int) -> None:
    data = bytes_of(4 * CHUNK)
    server.plan("/f", *[lambda asked: asked.head(status, Content_Length=0, Retry_After=0)] * 5)
    assert arrives(tmp_path, server, data).bytes_fetched == len(data)


def test_a_server_that_stays_in_trouble_is_given_up(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(4 * CHUNK))
    server.default = lambda asked: asked.head(503, Content_Length=0)
    with pytest.raises(HttpStatusError) as caught:
        fetcher(connections=1).fetch([file])
    assert caught.value.retryable
    assert len(server.asked) == QUICK.max_tries


def test_the_next_location_is_asked_at_once(
    tmp_path: Path, start_server: Callable[[], Any]
) -> None:
    bad, good = start_server(), start_server()
    data = bytes_of(8 * CHUNK)
    bad.default = lambda asked: asked.head(503, Content_Length=0, Retry_After=3600)
    file = wanted(tmp_path, good, data)
    slow = RetryLimits(factor_s=1000.0, cap_s=1000.0)
    locations = (Location(bad.url("/f")), *file.locations)
    arrives(tmp_path, good, data, locations=locations, options={"retries": slow})


def test_nobody_listens(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(10))
    server.close()
    with pytest.raises(ArtifactTransferError) as caught:
        fetcher().fetch([file])
    assert caught.value.retryable


def test_a_stalled_server_is_left_for_the_next_location(
    tmp_path: Path, start_server: Callable[[], Any]
) -> None:
    stalled, good = start_server(), start_server()
    data = bytes_of(8 * CHUNK)

    def stall(asked: Any) -> None:
        asked.head(
            206,
            Content_Length=asked.stop - asked.start,
            Content_Range=f"bytes {asked.start}-{asked.stop - 1}/{len(data)}",
        )
        asked.send(data[asked.start : asked.start + 5000])
        stalled.released.wait()

    stalled.default = stall
    file = wanted(tmp_path, good, data)
    opener = Opener(allow_private=True, read_timeout_s=0.5)
    arrives(
        tmp_path,
        good,
        data,
        locations=(Location(stalled.url("/f")), *file.locations),
        options={"opener": opener},
    )
    assert stalled.asked


def test_a_trickle_is_a_stall(tmp_path: Path, start_server: Callable[[], Any]) -> None:
    slow, good = start_server(), start_server()
    data = bytes_of(8 * CHUNK)

    def trickle(asked: Any) -> None:
        asked.head(
            206,
            Content_Length=asked.stop - asked.start,
            Content_Range=f"bytes {asked.start}-{asked.stop - 1}/{len(data)}",
        )
        at = asked.start
        while not slow.released.wait(0.05):
            asked.send(data[at : at + 1])
            at += 1

    slow.default = trickle
    file = wanted(tmp_path, good, data)
    arrives(
        tmp_path,
        good,
        data,
        locations=(Location(slow.url("/f")), *file.locations),
        options={"stall_window_s": 1.0},
    )


@pytest.mark.parametrize("place", ["body", "head"])
def test_a_cancel_wakes_a_blocked_read(tmp_path: Path, server: Any, place: str) -> None:
    data = bytes_of(8 * CHUNK)
    file = wanted(tmp_path, server, data)
    reached = threading.Semaphore(0)

    def stall(asked: Any) -> None:
        if place == "body":
            asked.head(
                206,
                Content_Length=asked.stop - asked.start,
                Content_Range=f"bytes {asked.start}-{asked.stop - 1}/{len(data)}",
            )
            asked.send(data[asked.start : asked.start + 5000])
        reached.release()
        server.released.wait()

    server.default = stall
    token = CancelToken()

    def cancel() -> None:
        for _ in range(4):
            reached.acquire()
        token.cancel()

    canceler = threading.Thread(target=cancel)
    canceler.start()
    with pytest.raises(CanceledError):
        fetcher().fetch([file], token=token)
    latency = time.perf_counter() - (token.canceled_at or 0)
    canceler.join()
    assert latency < 30  # 100 ms on an idle machine; the read itself waits for 100 s


def test_a_cancel_wakes_a_wait_between_tries(tmp_path: Path, server: Any) -> None:
    token = CancelToken()
    file = wanted(tmp_path, server, bytes_of(CHUNK))

    def refuse(asked: Any) -> None:
        asked.head(503, Content_Length=0)
        threading.Timer(0.05, token.cancel, ["shutdown"]).start()

    server.default = refuse
    slow = RetryLimits(factor_s=1000.0, cap_s=1000.0)
    with pytest.raises(CanceledError):
        fetcher(retries=slow).fetch([file], token=token)
    with pytest.raises(CanceledError):  # and one that is canceled already asks nobody
        fetcher().fetch([file], token=token)


def test_one_failure_keeps_what_is_finished(tmp_path: Path, server: Any) -> None:
    good = wanted(tmp_path, server, bytes_of(100), "good")
    bad = wanted(tmp_path, server, bytes_of(100), "bad", locations=(Location(server.url("/0")),))
    finished = threading.Event()

    def late(asked: Any) -> None:
        finished.wait(60)
        asked.head(404, Content_Length=0)

    server.plan("/0", late)

    def watch(seen: FetchProgress) -> None:
        if seen.files_done:
            finished.set()

    with pytest.raises(HttpStatusError):
        fetcher().fetch([good, bad], progress=watch)
    assert_only(tmp_path, "good")


def test_progress_counts_bytes_and_files(tmp_path: Path, server: Any) -> None:
    data = bytes_of(6 * CHUNK)
    seen: list[FetchProgress] = []
    fetcher().fetch([wanted(tmp_path, server, data)], progress=seen.append)
    assert seen[-1] == (len(data), len(data), 1, 1)
    assert all(one.bytes_done <= len(data) for one in seen)


def test_what_progress_raises_ends_the_fetch(tmp_path: Path, server: Any) -> None:
    def fail(seen: FetchProgress) -> None:
        raise KeyError("progress")

    with pytest.raises(KeyError):
        fetcher().fetch([wanted(tmp_path, server, bytes_of(6 * CHUNK))], progress=fail)


def test_the_bandwidth_limit_is_shared(tmp_path: Path, server: Any) -> None:
    data = bytes_of(4 * CHUNK)
    since = time.monotonic()
    arrives(tmp_path, server, data, options={"bandwidth": BandwidthLimit(2 * len(data))})
    assert time.monotonic() - since >= 0.35  # half a second, less the burst


def test_the_connection_limit_is_kept(tmp_path: Path, server: Any) -> None:
    data = bytes_of(8 * CHUNK)
    lock, running, most = threading.Lock(), [0], [0]

    def counted(asked: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        size, last = asked.stop - asked.start, asked.stop - 1
        span = f"bytes {asked.start}-{last}/{len(data)}"
        asked.head(206, Content_Length=size, Content_Range=span)
        asked.send(data[asked.start : last])
        with lock:
            running[0] -= 1
        asked.send(data[last : asked.stop])  # whoever has it may ask again before we go on

    server.default = counted
    arrives(tmp_path, server, data, options={"connections_limit": ConnectionLimit(1)})
    assert most == [1]


def test_headers_are_sent_along(tmp_path: Path, server: Any) -> None:
    place = Location(server.url("/f?sig=secret"), (("Authorization", "Bearer t0k"),))
    arrives(tmp_path, server, bytes_of(10), locations=(place,))
    assert server.asked[0].headers["authorization"] == "Bearer t0k"
    assert "secret" not in repr(place)
    assert "t0k" not in repr(place)


def test_a_private_address_is_refused(tmp_path: Path, server: Any) -> None:
    with pytest.raises(UrlRefusedError):
        fetcher(opener=Opener()).fetch([wanted(tmp_path, server, bytes_of(10))])
    assert server.asked == []


def test_a_compressed_answer_is_refused(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(10))
    server.default = lambda asked: asked.head(200, Content_Length=10, Content_Encoding="gzip")
    with pytest.raises(ArtifactTransferError, match="gzip"):
        fetcher().fetch([file])


@pytest.mark.parametrize("connections", [7, 64, 1000])
def test_any_number_of_connections(tmp_path: Path, server: Any, connections: int) -> None:
    arrives(tmp_path, server, bytes_of(9 * CHUNK), options={"connections": connections})
    # One for each thread, and one more whenever a slow one's work is taken over.
    assert server.connections <= min(64, 2 * connections)


def test_no_connection_at_all_is_a_mistake() -> None:
    with pytest.raises(ValidationError):
        fetcher(connections=0)


def test_the_same_destination_twice_is_a_mistake(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(10))
    with pytest.raises(ValidationError):
        fetcher().fetch([file, file])
    with pytest.raises(ValidationError):
        wanted(tmp_path, server, b"", digest="md5:00")


def test_a_redirect_to_an_inner_address_is_refused(tmp_path: Path, server: Any) -> None:
    file = wanted(tmp_path, server, bytes_of(10))
    server.default = lambda asked: asked.head(
        302, Location="http://169.254.169.254/latest", Content_Length=0
    )
    with pytest.raises(UrlRefusedError, match=r"169\.254"):
        fetcher(opener=Opener(trusted=[server.origin])).fetch([file])
    assert len(server.asked) == 1


@pytest.mark.parametrize("size", [3 * CHUNK, None])
def test_places_that_cannot_be_written(tmp_path: Path, server: Any, size: int | None) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    for destination in (tmp_path / "file" / "below", tmp_path / "full"):
        file = wanted(
            tmp_path, server, bytes_of(3 * CHUNK), destination=str(destination), size_bytes=size
        )
        with pytest.raises(DiskError) as caught:
            fetcher().fetch([file])
        assert not caught.value.retryable
        assert caught.value.phase == "disk"


@pytest.mark.parametrize("function", ["opening.preallocate", "download.write_at"])
def test_a_full_disk(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"gen_worker.models.fetch.{function}", full)
    with pytest.raises(NoSpaceError) as caught:
        fetcher().fetch([wanted(tmp_path, server, bytes_of(3 * CHUNK))])
    assert caught.value.size_bytes == 3 * CHUNK
    assert_only(tmp_path)


def test_space_is_reserved_before_the_first_byte(tmp_path: Path, server: Any) -> None:
    data = bytes_of(4 * CHUNK)
    reserved: list[int] = []

    def look(asked: Any) -> None:
        reserved.extend(part.stat().st_blocks * 512 for part in tmp_path.glob("*.part"))
        asked.serve()

    server.plan("/f", look)
    arrives(tmp_path, server, data)
    assert reserved[0] >= len(data)
