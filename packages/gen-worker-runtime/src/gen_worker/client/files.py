"""Files to a host and back, in pieces."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote

import msgspec

from gen_worker.client.addresses import file_path
from gen_worker.client.errors import CallError, UnreachableError, error_of_refusal
from gen_worker.client.steps import LostError, Question, do, hold, next_bytes, open_stream, pause
from gen_worker.client.values import decoded
from gen_worker.errors import ValidationError
from gen_worker.types import Asset, StoredFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.client.host import Host
    from gen_worker.client.steps import Flow, Head

    AnyFile = StoredFile | dict[str, Any] | str

__all__ = ["FileFacts", "Uploads", "download", "facts_of"]

_PIECE_BYTES = 1024 * 1024
_MAX_KNOWN = 1024
_KEEP_S = 600.0
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_REFUSAL_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class _Digest(NamedTuple):
    stamp: tuple[int, int, int, int]
    """What tells whether the file was written to since."""
    sha256: str


class _Known(NamedTuple):
    file: Asset
    until: float


class Uploads:
    """What a host has of this client's files: the same content is sent once."""

    def __init__(self, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing.

        Args:
            host: Where to.
            clock: Seconds; a host is trusted to keep a file for ten minutes.
        """
        self._host = host
        self._clock = clock
        self._digests: dict[str, _Digest] = {}
        self._known: dict[str, _Known] = {}

    def upload(self, path: str, name: str = "") -> Flow[Asset]:
        """Have a file at the host.

        Args:
            path: Of the file.
            name: What the host calls it; empty takes the file's own.

        Raises:
            OSError: It cannot be read.
            CallError: The host refuses.
        """
        path = os.path.abspath(path)
        name = _ODD.sub("_", name or os.path.basename(path)).lstrip(".") or "file"
        digest = yield from do(lambda: self._digest(path))
        key = digest.sha256 + os.path.splitext(name)[1]
        known = self._find(key)
        if known is None:
            yield from hold(key)  # a payload of many calls is on its way perhaps
            known = self._find(key)
            if known is None:
                known = yield from self._send(path, name, digest)
                self._note(key, known)
            yield from hold("")
        return known

    def _send(self, path: str, name: str, digest: _Digest) -> Flow[Asset]:
        size = digest.stamp[0]
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        question = Question("POST", f"/v1/files?name={quote(name)}", file=path, headers=headers)
        reply = yield from self._host.ask(question)
        data = reply.data
        ref = data.get("ref") if isinstance(data, dict) else None
        if not isinstance(ref, str) or not ref:
            raise CallError("the host took a file and gave it no ref")
        if data.get("size_bytes") != size:
            raise CallError(
                f"the host has {data.get('size_bytes')!r} bytes of a file with {size}: "
                "was it written to?",
                retryable=True,
            )
        return Asset(ref=ref, size_bytes=size, sha256=digest.sha256)

    def _digest(self, path: str) -> _Digest:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
            known = self._digests.get(path)
            if known is not None and known.stamp == stamp:
                return known
            digest = _Digest(stamp, hashlib.file_digest(file, "sha256").hexdigest())
        _trim(self._digests)
        self._digests[path] = digest
        return digest

    def _find(self, key: str) -> Asset | None:
        known = self._known.get(key)
        if known is None or known.until < self._clock():
            return None
        return msgspec.structs.replace(known.file)  # whoever gets it may change it

    def _note(self, key: str, file: Asset) -> None:
        _trim(self._known)
        self._known[key] = _Known(msgspec.structs.replace(file), self._clock() + _KEEP_S)


def _trim(table: dict[str, Any]) -> None:
    while len(table) >= _MAX_KNOWN:
        table.pop(next(iter(table)), None)


class FileFacts(NamedTuple):
    """A file that is to be fetched, and what is known of it."""

    ref: str
    size_bytes: int | None = None
    sha256: str | None = None
    inline: bytes | None = None
    """The content itself, where it came with the result."""


def facts_of(file: AnyFile) -> FileFacts:
    """Return what a file of a result says of itself.

    Raises:
        ValidationError: It is no file.
    """
    if isinstance(file, str):
        return FileFacts(file)
    if isinstance(file, StoredFile):
        return FileFacts(
            file.ref,
            getattr(file, "size_bytes", None),
            getattr(file, "sha256", None),
            getattr(file, "inline_bytes", None),
        )
    try:
        return facts_of(msgspec.convert(file, Asset))
    except ValueError as error:
        raise ValidationError(f"this is no file of a result: {error}") from error


class _Target:
    """Where a file's bytes go: beside the path they are for, or into memory."""

    def __init__(self, path: str) -> None:
        self.size = 0
        self._path = path
        self._part = f"{path}.{os.urandom(6).hex()}.part" if path else ""
        self._pieces: list[bytes] = []
        self._file: BinaryIO | None = None
        self._hasher = hashlib.sha256()

    def begin(self) -> None:
        """Have nothing, whatever there was."""
        self.size = 0
        self._hasher = hashlib.sha256()
        self._pieces.clear()
        if self._path:
            self.close()
            self._file = open(self._part, "wb")

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._hasher.update(data)
        if self._file is None:
            self._pieces.append(data)
        else:
            self._file.write(data)

    def finish(self, facts: FileFacts) -> bytes:
        """Have the file under its own name; return its content if it is to be in memory."""
        digest = self._hasher.hexdigest()
        if facts.sha256 and facts.sha256.lower() != digest:
            raise CallError(
                f"the file {facts.ref!r} arrived with SHA-256 {digest}, "
                f"its result says {facts.sha256}",
                retryable=True,
            )
        if self._file is not None:
            self.close()
            os.replace(self._part, self._path)
        return b"".join(self._pieces)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        if self._file is not None:
            self.close()
            os.unlink(self._part)


def download(host: Host, facts: FileFacts, path: str = "") -> Flow[bytes]:
    """Fetch a file; what broke off is continued.

    Args:
        host: Keeps it.
        facts: Which, and what it has to be like.
        path: Where it goes, whole or not at all; empty returns its content.

    Raises:
        CallError: The host does not have it, or has another.
        OSError: It cannot be written.
    """
    target = _Target(path)
    try:
        yield from do(target.begin)
        if facts.inline is not None:
            content = facts.inline
            yield from do(lambda: target.add(content))
        else:
            yield from _fetch(host, facts, target)
        return (yield from do(lambda: target.finish(facts)))
    finally:
        target.discard()


def _fetch(host: Host, facts: FileFacts, target: _Target) -> Flow[None]:
    limits = host.limits()
    patience = limits.patience()
    etag = ""
    while True:
        question = Question("GET", file_path(facts.ref), silence_s=limits.silence_s())
        is_resumed = bool(etag and target.size)
        if is_resumed:
            headers = {"range": f"bytes={target.size}-", "if-range": etag}
            question = question._replace(headers=headers)
        failure: CallError
        cause: Exception | None = None
        try:
            head = yield from open_stream(question)
            if head.status in (200, 206):
                wanted = yield from _begin(head, target)
                etag = head.headers.get("etag", "")
                while data := (yield from next_bytes(limits.silence_s())):
                    piece = data
                    yield from do(lambda: target.add(piece))  # noqa: B023  # called at once
                    patience.renew()
                if wanted in (None, target.size):
                    return
                raise LostError("the file broke off")
            failure = error_of_refusal(
                (yield from _refusal(limits.silence_s())), head.status, head.retry_after_s
            )
        except LostError as error:
            cause = error
            text = f"the file {facts.ref!r} cannot be fetched: {error}"
            failure = UnreachableError(text, retryable=True)
        pause_s = patience.pause_s(failure.retry_after_s) if failure.retryable else None
        if pause_s is None:
            raise failure from cause
        yield from pause(pause_s)


def _begin(head: Head, target: _Target) -> Flow[int | None]:
    """Make ready for what comes; return how many bytes the whole file has."""
    match = _RANGE.fullmatch(head.headers.get("content-range", ""))
    if head.status == 206 and match is not None and int(match[1]) == target.size:
        return int(match[2])
    if head.status == 206:
        raise LostError("another part of the file came than was asked for")
    yield from do(target.begin)
    length = head.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _refusal(silence_s: float) -> Flow[Any]:
    body = b""
    while len(body) < _MAX_REFUSAL_BYTES and (data := (yield from next_bytes(silence_s))):
        body += data
    return decoded(body)
