"""One request for a run of blocks: asking, judging the answer, writing what arrives."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.fetch.errors import SizeMismatchError, StalledError
from gen_worker.models.fetch.stall import StallWatch
from gen_worker.models.net.errors import IncompleteBodyError, NetworkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch.blocks import Segment
    from gen_worker.models.fetch.download import Download
    from gen_worker.models.fetch.limits import BandwidthLimit
    from gen_worker.models.fetch.streamed import StreamedDownload
    from gen_worker.models.fetch.values import Location
    from gen_worker.models.net.opener import Opener
    from gen_worker.models.net.response import Response

__all__ = ["Pace", "RangesIgnoredError", "transfer_segment", "transfer_stream"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class RangesIgnoredError(Exception):
    """The server does not send the part it was asked for."""


class Pace(NamedTuple):
    """What every read of a transfer obeys and reports to."""

    token: CancelToken
    limit: BandwidthLimit
    stall_window_s: float
    stall_bytes_per_s: float
    arrived: Callable[[int], None]
    """Told how many bytes came over the network."""


def transfer_segment(
    opener: Opener,
    location: Location,
    download: Download,
    segment: Segment,
    buffer: memoryview,
    pace: Pace,
    *,
    destination: str,
    is_whole: bool,
) -> None:
    """Fetch a segment, or as much of it as one answer brings.

    Args:
        opener: Asks.
        location: Whom.
        download: Written to.
        segment: What to fetch; it may shrink meanwhile.
        buffer: For reading.
        pace: See there.
        destination: What errors name.
        is_whole: Ask for the whole file, from its start, instead of for a range of it.

    Raises:
        RangesIgnoredError: See there; nothing was written.
        SizeMismatchError: The source's file has another size.
        ArtifactTransferError: The request failed; what was written stays.
        SegmentVoidError: The download was started again meanwhile.
    """
    start, end = download.position(segment), download.end(segment)
    headers = list(location.headers)
    if not is_whole:
        headers.append(("Range", f"bytes={start}-{end - 1}"))
    with opener.open(location.url, headers=headers, token=pace.token) as response:
        _check_coding(response)
        size = download.size_bytes
        stop = _judge(response, start, end, size, destination)
        if stop is None:
            if is_whole:
                raise NetworkError(f"{response.url} sent a part, asked for the whole file")
            raise RangesIgnoredError
        reader = _Reader(response, buffer, pace)
        while start < stop and (room := download.room(segment)):
            view = reader.read(min(room, stop - start))
            download.write(segment, view)
            start += len(view)
        if stop == size and response.length is None and start == stop:
            _check_end(reader, size, destination)


def transfer_stream(
    opener: Opener,
    location: Location,
    download: StreamedDownload,
    buffer: memoryview,
    pace: Pace,
) -> None:
    """Fetch a whole file whose size nobody knows beforehand; the errors of `transfer_segment`."""
    with opener.open(location.url, headers=location.headers, token=pace.token) as response:
        _check_coding(response)
        if response.status != 200:
            raise NetworkError(f"{response.url} answered {response.status} instead of 200")
        download.begin(response.length)
        reader = _Reader(response, buffer, pace)
        while view := reader.read(len(buffer), may_end=True):
            download.write(view)


class _Reader:
    """Reads a body at the agreed pace."""

    def __init__(self, response: Response, buffer: memoryview, pace: Pace) -> None:
        self._response = response
        self._buffer = buffer
        self._pace = pace
        self._watch = StallWatch(
            window_s=pace.stall_window_s, min_bytes_per_s=pace.stall_bytes_per_s
        )

    def read(self, most: int, *, may_end: bool = False) -> memoryview:
        pace, response = self._pace, self._response
        most = min(most, len(self._buffer), pace.limit.read_bytes)
        since = time.monotonic()
        count = response.readinto(self._buffer[:most])
        if not count and not may_end:
            raise IncompleteBodyError(
                f"{response.url} ended early", expected_bytes=None, received_bytes=0
            )
        if self._watch.has_stalled(time.monotonic() - since, count):
            raise StalledError(str(response.url), window_s=pace.stall_window_s)
        pace.arrived(count)
        wait_s = pace.limit.take(count)
        if wait_s and pace.token.wait(wait_s):
            raise pace.token.error()
        return self._buffer[:count]


def _judge(response: Response, start: int, end: int, size: int, destination: str) -> int | None:
    """Return the offset the answer's body ends at; None when it starts elsewhere."""
    if response.status == 200:
        _check_size(response.length, size, destination)
        return size if (start, end) == (0, size) else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status != 206 or match is None:
        return None
    first, last = int(match[1]), int(match[2])
    _check_size(None if match[3] == "*" else int(match[3]), size, destination)
    if first != start or last < first or response.length not in (None, last - first + 1):
        return None
    return min(last + 1, end)


def _check_size(actual: int | None, expected: int, destination: str) -> None:
    if actual is not None and actual != expected:
        raise SizeMismatchError(destination, expected_bytes=expected, actual_bytes=actual)


def _check_coding(response: Response) -> None:
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        raise NetworkError(
            f"{response.url} sends its file in the coding {coding[:40]!r}, which nobody asked for",
            retryable=False,
        )


def _check_end(reader: _Reader, size: int, destination: str) -> None:
    more = len(reader.read(1, may_end=True))
    if more:
        raise SizeMismatchError(destination, expected_bytes=size, actual_bytes=size + more)
