"""Takes the steps of the protocol on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.client.connections import (
    LOST,
    MAX_REPLY_BYTES,
    async_pieces_of,
    head_of,
    lost,
    new_async_client,
    request_options,
)
from gen_worker.client.driving import Course
from gen_worker.client.steps import Ask, Do, Give, Hold, LostError, Next, Open, Pause, Reply

if TYPE_CHECKING:
    import httpx

    from gen_worker.client.steps import Flow, Head, Question, Step

__all__ = ["AsyncDriver"]

T = TypeVar("T")


class AsyncDriver:
    """The network, the disk and the clock of an async client; of one loop."""

    def __init__(self, url: str, token: str, transport: httpx.AsyncBaseTransport | None) -> None:
        self.is_closed = False
        self.url = url
        self._http = new_async_client(url, token, transport)
        self._locks: dict[str, _Lock] = {}

    async def run(self, flow: Flow[T]) -> T:
        """Take every step of a flow that gives nothing, and return its result."""
        course = Course(flow)
        line = _Line(self)
        try:
            while (step := course.next()) is not None:
                await _take(course, line, step)
            result: T = course.result
            return result
        finally:
            course.close()
            await line.close()

    async def iterate(self, flow: Flow[Any]) -> AsyncGenerator[Any, None]:
        """Take every step of a flow, and hand on what it gives."""
        course = Course(flow)
        line = _Line(self)
        try:
            while (step := course.next()) is not None:
                if isinstance(step, Give):
                    yield step.item
                else:
                    await _take(course, line, step)
        finally:
            course.close()
            await line.close()

    async def send(self, question: Question) -> httpx.Response:
        if self.is_closed:
            raise RuntimeError("the client is closed")
        content = async_pieces_of(question.file) if question.file else None
        options = request_options(question, content)
        request = self._http.build_request(question.method, self.url + question.path, **options)
        return await self._http.send(request, stream=True)

    async def acquire(self, key: str) -> None:
        lock = self._locks.setdefault(key, _Lock())
        lock.users += 1
        try:
            await lock.lock.acquire()
        except BaseException:
            self._forget(key, lock)
            raise

    def release(self, key: str) -> None:
        lock = self._locks[key]
        lock.lock.release()
        self._forget(key, lock)

    def _forget(self, key: str, lock: _Lock) -> None:
        lock.users -= 1
        if not lock.users:
            del self._locks[key]

    async def close(self) -> None:
        self.is_closed = True
        await self._http.aclose()


class _Lock:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


async def _take(course: Course, line: _Line, step: Step) -> None:
    try:
        course.answer = await line.take(step)
    except Exception as raised:  # the flow knows what to make of it
        course.error = raised


class _Line:
    """What one flow holds: an answer that is being read, a key."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._response: httpx.Response | None = None
        self._pieces: AsyncGenerator[bytes, None] | None = None
        self._key = ""

    async def take(self, step: Step) -> Any:
        """Take one step and return what came of it."""
        match step:
            case Ask():
                return await self._ask(step.question)
            case Open():
                return await self._open(step.question)
            case Next():
                return await self._next(step.silence_s)
            case Pause():
                await asyncio.sleep(step.seconds)
            case Do():
                return await asyncio.to_thread(step.action)
            case Hold():
                await self._hold(step.key)
        return None

    async def _ask(self, question: Question) -> Reply:
        try:
            response = await self._driver.send(question)
            try:
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_REPLY_BYTES:
                        raise LostError(f"the answer has more than {MAX_REPLY_BYTES} bytes")
            finally:
                await response.aclose()
        except LOST as error:
            raise lost(error, self._driver.url) from error
        return Reply(head_of(response), bytes(body))

    async def _open(self, question: Question) -> Head:
        await self._shut()
        try:
            self._response = await self._driver.send(question)
        except LOST as error:
            raise lost(error, self._driver.url) from error
        pieces = self._response.aiter_raw()
        assert isinstance(pieces, AsyncGenerator), "it can be closed"
        self._pieces = pieces
        return head_of(self._response)

    async def _next(self, silence_s: float) -> bytes:
        assert self._pieces is not None, "something is open"
        try:
            async with asyncio.timeout(silence_s):
                data = await anext(self._pieces, b"")
        except LOST as error:
            raise lost(error, self._driver.url) from error
        except TimeoutError as error:
            raise lost(error, self._driver.url) from error
        if not data:
            await self._shut()
        return data

    async def _shut(self) -> None:
        pieces, self._pieces = self._pieces, None
        response, self._response = self._response, None
        with suppress(*LOST):  # it is not wanted any more
            if pieces is not None:
                await pieces.aclose()
            if response is not None:
                await response.aclose()

    async def _hold(self, key: str) -> None:
        if self._key:
            self._driver.release(self._key)
            self._key = ""
        if key:
            await self._driver.acquire(key)
            self._key = key

    async def close(self) -> None:
        await self._shut()
        await self._hold("")
