"""Requests and answers over plain ASGI: JSON bodies with a limit, files in, ranges of files out.

Whatever touches the disk runs in a thread; the event loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping
    from concurrent.futures import Executor

    from gen_worker.models.hub.local.tokens import Principal

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ["Answer", "Call", "FileAnswer", "read_body", "receive_file", "send_answer", "send_file"]

T = TypeVar("T")

_READ_BYTES = 1024 * 1024
_MAX_QUERY_FIELDS = 100
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_encode = msgspec.json.Encoder().encode


class Call:
    """One request."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive) -> None:
        self.method: str = scope["method"]
        raw = scope.get("raw_path") or scope["path"].encode()
        self.raw_path = raw.decode("latin-1").partition("?")[0]
        self.segments = [unquote(part) for part in self.raw_path.strip("/").split("/")]
        self.raw_query: str = scope["query_string"].decode("latin-1")
        self.query = _query(self.raw_query)
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self.scheme: str = scope.get("scheme", "http")
        self.receive = receive
        self.params: dict[str, str] = {}
        self.body = b""
        self.principal: Principal

    def read(self, kind: type[T]) -> T:
        """Decode the body.

        Raises:
            Refusal: 400, it is something else.
        """
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(
                400, "invalid_body", f"the body is not as it has to be: {error}"
            ) from error


def _query(raw: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(raw, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS))
    except ValueError as error:
        raise Refusal(400, "invalid_query", "the query has too many fields") from error


class Answer:
    """What a request is answered: JSON unless `content_type` is given."""

    def __init__(
        self,
        body: Any = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> None:
        self.status = status
        self.data = body if content_type or body is None else _encode(body)
        self.headers = dict(headers or {})
        if content_type:
            self.headers["content-type"] = content_type
        elif body is not None:
            self.headers["content-type"] = "application/json"


class FileAnswer:
    """A file, or the range of it that is asked for."""

    def __init__(
        self,
        path: str,
        *,
        etag: str,
        content_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.etag = f'"{etag}"'
        self.headers = {"content-type": content_type, **(headers or {})}


async def read_body(call: Call, max_bytes: int) -> None:
    """Fill in the body of a call.

    Raises:
        Refusal: 413, it is too long; it is then not read to its end.
    """
    announced = call.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_long(max_bytes)
    parts = bytearray()
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "incomplete_body", "the body was not sent to its end")
        parts += message.get("body", b"")
        if len(parts) > max_bytes:
            raise _too_long(max_bytes)
        if not message.get("more_body"):
            call.body = bytes(parts)
            return


async def receive_file(
    call: Call,
    path: str,
    executor: Executor,
    *,
    size_bytes: int | None,
    max_bytes: int,
    hashers: tuple[Any, ...],
    decode: Callable[[bytes], bytes] = bytes,
) -> int:
    """Write the body of a call to a new file, and return its size.

    Args:
        call: The request, its body not read yet.
        path: Of the file, which must not exist.
        executor: Runs what blocks.
        size_bytes: Its size; None when that is not known.
        max_bytes: Where reading stops.
        hashers: Objects with `update`, each of which gets all bytes.
        decode: Takes what the transfer added out of the bytes that arrive.

    Raises:
        Refusal: 400 or 413, it is longer or shorter.
    """
    loop = asyncio.get_running_loop()
    limit = max_bytes if size_bytes is None else size_bytes
    total = 0
    file = await loop.run_in_executor(executor, open, path, "xb", 0)

    def write(data: bytes) -> None:
        file.write(data)
        for hasher in hashers:
            hasher.update(data)

    try:
        pieces: list[bytes] = []
        held = 0
        more = True
        while more:
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "incomplete_body", f"the body ended after {total} bytes")
            data = decode(message.get("body", b""))
            more = message.get("more_body", False)
            total += len(data)
            if total > limit:
                raise _too_long(limit)
            pieces.append(data)
            held += len(data)
            if held >= _READ_BYTES or not more:
                await loop.run_in_executor(executor, write, b"".join(pieces))
                pieces, held = [], 0
        if size_bytes is not None and total != size_bytes:
            raise Refusal(
                400, "incomplete_body", f"the body has {total} bytes, {size_bytes} are due"
            )
    finally:
        await loop.run_in_executor(executor, file.close)
    return total


async def send_answer(answer: Answer, send: Send, *, with_body: bool) -> None:
    data = answer.data or b""
    headers = {"content-length": str(len(data)), **answer.headers}
    await _start(send, answer.status, headers)
    await send({"type": "http.response.body", "body": data if with_body else b""})


async def send_file(call: Call, answer: FileAnswer, send: Send, executor: Executor) -> None:
    """Send a file as `Range` and `If-Range` ask; the next piece is read while one is sent."""
    loop = asyncio.get_running_loop()
    descriptor, size = await loop.run_in_executor(executor, _open, answer.path)
    try:
        wanted = _range_of(call, answer.etag, size)
        status, start, end = (200, 0, size) if wanted is None else (206, *wanted)
        headers = {"accept-ranges": "bytes", "etag": answer.etag, **answer.headers}
        if start >= end and wanted is not None:
            del headers["content-type"]
            headers |= {"content-range": f"bytes */{size}", "content-length": "0"}
            await _start(send, 416, headers)
            await send({"type": "http.response.body"})
            return
        headers["content-length"] = str(end - start)
        if wanted is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        await _start(send, status, headers)
        if call.method == "HEAD":
            await send({"type": "http.response.body"})
            return
        await _pump(call, descriptor, start, end, send, executor)
    finally:
        os.close(descriptor)


async def _pump(
    call: Call, descriptor: int, start: int, end: int, send: Send, executor: Executor
) -> None:
    loop = asyncio.get_running_loop()

    def read(position: int) -> asyncio.Future[bytes]:
        count = min(_READ_BYTES, end - position)
        return loop.run_in_executor(executor, os.pread, descriptor, count, position)

    # Servers drop what is sent to a client that has gone: without looking, it would all be read.
    gone = asyncio.ensure_future(_disconnect(call))
    position = start
    following = read(position) if start < end else None
    try:
        while following is not None and not gone.done():
            data = await following
            if not data:
                raise OSError("a blob became shorter while it was sent")
            position += len(data)
            following = read(position) if position < end else None
            has_more = following is not None
            await send({"type": "http.response.body", "body": data, "more_body": has_more})
        if start == end:
            await send({"type": "http.response.body"})
    finally:
        gone.cancel()
        if following is not None:
            await asyncio.wait((following,))


async def _disconnect(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


def _open(path: str) -> tuple[int, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return descriptor, os.fstat(descriptor).st_size


def _range_of(call: Call, etag: str, size: int) -> tuple[int, int] | None:
    """Return where the range begins and ends; None for all, empty when it cannot be met.

    Several ranges at once, and what is no range of bytes, are answered with the whole file.
    """
    text = call.headers.get("range", "")
    condition = call.headers.get("if-range", etag)
    match = _RANGE.fullmatch(text.strip())
    if match is None or condition != etag or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(size - int(match[2]), 0) if int(match[2]) else size, size
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    return (start, end) if start < size else (size, size)


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


def _too_long(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body has more than {max_bytes} bytes")
