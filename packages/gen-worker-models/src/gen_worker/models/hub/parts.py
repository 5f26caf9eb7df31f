"""Sending a file in parts to presigned URLs. Parts the hub has already are left out."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub.connection import tls_context
from gen_worker.models.hub.errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.clock import Clock
    from gen_worker.models.hub.progress import UploadProgress
    from gen_worker.models.hub.uploading import FileFacts
    from gen_worker.models.hub.wire import UploadTicket

__all__ = ["send_parts"]

_PARTS_PER_FILE = 4
_ATTEMPTS = 5
_MAX_PAUSE_S = 20.0
_CONNECT_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 120.0
_PIECE_BYTES = 1024 * 1024

_process_puts = threading.BoundedSemaphore(8)
"""Requests under way in this process, of all files together."""


def send_parts(
    ticket: UploadTicket,
    facts: FileFacts,
    *,
    progress: UploadProgress,
    clock: Clock,
    cancel: CancelToken | None,
) -> list[dict[str, Any]]:
    """Send what the hub lacks, and return number and ETag of every part.

    Raises:
        ArtifactTransferError: A part was refused, or failed five times.
    """
    total = ticket.total_parts or len(ticket.part_urls)
    if total != len(ticket.part_urls) or _part_count(facts, ticket.part_size) > total:
        raise _failed(
            f"{len(ticket.part_urls)} URLs for {total} parts of {ticket.part_size} bytes do not "
            f"hold the {facts.size_bytes} bytes of the file",
            phase="create",
        )
    sender = _Sender(ticket, facts, progress, clock, cancel)
    known = {
        part.part_number: part.etag
        for part in ticket.parts
        if part.etag and part.size_bytes in (None, sender.size(part.part_number))
    }
    for number in known:
        progress.add(sender.size(number))
    due = [number for number in range(1, total + 1) if number not in known]
    return [
        {"part_number": number, "etag": etag}
        for number, etag in sorted((known | sender.send_all(due)).items())
    ]


class _Sender:
    """Sends the parts of one file, several at a time."""

    def __init__(
        self,
        ticket: UploadTicket,
        facts: FileFacts,
        progress: UploadProgress,
        clock: Clock,
        cancel: CancelToken | None,
    ) -> None:
        self._ticket = ticket
        self._facts = facts
        self._progress = progress
        self._clock = clock
        self._cancel = cancel
        self._has_failed = False

    def size(self, number: int) -> int:
        part = self._ticket.part_size
        return max(min(part, self._facts.size_bytes - (number - 1) * part), 0)

    def send_all(self, numbers: list[int]) -> dict[int, str]:
        """Send parts and return their ETags; after a failure no further one is begun."""
        with ThreadPoolExecutor(_PARTS_PER_FILE, "hub-part") as executor:
            sending = {number: executor.submit(self._send, number) for number in numbers}
            try:
                return {number: future.result() for number, future in sending.items()}
            except BaseException:
                self._has_failed = True
                for future in sending.values():
                    future.cancel()
                raise

    def _send(self, number: int) -> str:
        for attempt in range(1, _ATTEMPTS + 1):
            if self._has_failed:
                raise _failed("another part failed", phase="put", retryable=True)
            if self._cancel is not None:
                self._cancel.raise_if_canceled()
            try:
                with _process_puts:
                    return self._put(number)
            except ArtifactTransferError as error:
                if not error.retryable or attempt == _ATTEMPTS:
                    self._has_failed = True
                    raise
            longest = min(_MAX_PAUSE_S, 0.5 * 3.0**attempt)
            self._clock.sleep(0.5 + self._clock.random() * (longest - 0.5), self._cancel)
        raise AssertionError("the last attempt returns or raises")

    def _put(self, number: int) -> str:
        import httpx

        sent = _Counter(self._progress)
        headers = {"content-length": str(self.size(number)), "connection": "close"}
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            # A pool of its own: one that is broken must not fail the next attempt too.
            with httpx.Client(
                timeout=timeout, follow_redirects=False, verify=tls_context()
            ) as client:
                response = client.put(
                    self._ticket.part_urls[number - 1],
                    content=self._pieces(number, sent),
                    headers=headers,
                )
        except (httpx.TransportError, httpx.DecodingError) as error:
            sent.take_back()
            raise _failed(
                f"part {number} could not be sent",
                phase="put",
                retryable=True,
                cause_type=type(error).__name__,
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise _failed(f"the URL of part {number} is none", phase="put") from error
        except BaseException:
            sent.take_back()
            raise
        return self._etag(number, response, sent)

    def _etag(self, number: int, response: Any, sent: _Counter) -> str:
        status, etag = response.status_code, response.headers.get("etag", "")
        if not 200 <= status < 300:
            sent.take_back()
            raise _failed(
                f"part {number} was refused",
                phase="put",
                status_code=status,
                retryable=status == 429 or status >= 500,
            )
        if not etag:
            raise _failed(
                f"part {number} was taken without an ETag", phase="put", status_code=status
            )
        self._progress.add_part()
        return str(etag)

    def _pieces(self, number: int, sent: _Counter) -> Iterator[bytes]:
        left = self.size(number)
        with open(self._facts.path, "rb") as file:
            file.seek((number - 1) * self._ticket.part_size)
            while left:
                if self._cancel is not None:
                    self._cancel.raise_if_canceled()
                piece = file.read(min(_PIECE_BYTES, left))
                if not piece:
                    raise _failed(
                        f"{os.path.basename(self._facts.path)!r} became shorter while it was sent",
                        phase="put",
                    )
                left -= len(piece)
                sent.add(len(piece))
                yield piece


class _Counter:
    """Counts what of one attempt was sent, as it is to be sent again when it fails."""

    def __init__(self, progress: UploadProgress) -> None:
        self._progress = progress
        self._count = 0

    def add(self, count: int) -> None:
        self._count += count
        self._progress.add(count)

    def take_back(self) -> None:
        self._progress.add(-self._count)
        self._count = 0


def _part_count(facts: FileFacts, part_size: int) -> int:
    return max(-(-facts.size_bytes // part_size), 1)


def _failed(message: str, *, phase: str, **facts: Any) -> ArtifactTransferError:
    return ArtifactTransferError(message, provider=PROVIDER, phase=phase, **facts)
