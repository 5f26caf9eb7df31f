"""Takes the steps of the protocol with blocking calls. Threads may share a driver."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.client.connections import (
    LOST,
    MAX_REPLY_BYTES,
    head_of,
    lost,
    new_client,
    pieces_of,
    request_options,
)
from gen_worker.client.driving import Course
from gen_worker.client.steps import Ask, Do, Give, Hold, LostError, Next, Open, Pause, Reply
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

    from gen_worker.client.steps import Flow, Head, Question, Step

__all__ = ["BlockingDriver"]

T = TypeVar("T")


class BlockingDriver:
    """The network, the disk and the clock of a blocking client."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None) -> None:
        self.is_closed = False
        self.url = url
        self._http = new_client(url, token, transport)
        self._locks: dict[str, _Lock] = {}
        self._lock = threading.Lock()

    def run(self, flow: Flow[T], stop: threading.Event | None = None) -> T:
        """Take every step of a flow that gives nothing, and return its result.

        Args:
            flow: What to do.
            stop: Ends it with a `CanceledError` before its next step.
        """
        steps = self.iterate(flow, stop)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result

    def iterate(
        self, flow: Flow[T], stop: threading.Event | None = None
    ) -> Generator[Any, None, T]:
        """Take every step of a flow, and hand on what it gives."""
        course = Course(flow)
        line = _Line(self, stop or threading.Event())
        try:
            while (step := course.next()) is not None:
                if isinstance(step, Give):
                    yield step.item
                    continue
                try:
                    course.answer = line.take(step)
                except Exception as raised:  # the flow knows what to make of it
                    course.error = raised
            result: T = course.result
            return result
        finally:
            course.close()
            line.close()

    def send(self, question: Question) -> httpx.Response:
        if self.is_closed:
            raise RuntimeError("the client is closed")
        content = pieces_of(question.file) if question.file else None
        options = request_options(question, content)
        request = self._http.build_request(question.method, self.url + question.path, **options)
        return self._http.send(request, stream=True)

    def acquire(self, key: str) -> None:
        with self._lock:
            lock = self._locks.setdefault(key, _Lock())
            lock.users += 1
        lock.lock.acquire()

    def release(self, key: str) -> None:
        with self._lock:
            lock = self._locks[key]
            lock.users -= 1
            if not lock.users:
                del self._locks[key]
        lock.lock.release()

    def close(self) -> None:
        self.is_closed = True
        self._http.close()


class _Lock:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class _Line:
    """What one flow holds: an answer that is being read, a key."""

    def __init__(self, driver: BlockingDriver, stop: threading.Event) -> None:
        self._driver = driver
        self._stop = stop
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._key = ""

    def take(self, step: Step) -> Any:
        """Take one step and return what came of it."""
        if self._stop.is_set():
            raise CanceledError("nobody waits for it any more")
        match step:
            case Ask():
                return self._ask(step.question)
            case Open():
                return self._open(step.question)
            case Next():
                return self._next()
            case Pause():
                self._stop.wait(step.seconds)
            case Do():
                return step.action()
            case Hold():
                self._hold(step.key)
        return None

    def _ask(self, question: Question) -> Reply:
        try:
            response = self._driver.send(question)
            try:
                body = bytearray()
                for piece in response.iter_raw():
                    body += piece
                    if len(body) > MAX_REPLY_BYTES:
                        raise LostError(f"the answer has more than {MAX_REPLY_BYTES} bytes")
            finally:
                response.close()
        except LOST as error:
            raise lost(error, self._driver.url) from error
        return Reply(head_of(response), bytes(body))

    def _open(self, question: Question) -> Head:
        self._shut()
        try:
            self._response = self._driver.send(question)
        except LOST as error:
            raise lost(error, self._driver.url) from error
        self._pieces = self._response.iter_raw()
        return head_of(self._response)

    def _next(self) -> bytes:
        try:
            data = next(self._pieces, b"")
        except LOST as error:
            raise lost(error, self._driver.url) from error
        if not data:
            self._shut()
        return data

    def _shut(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            with suppress(*LOST):  # it is not wanted any more
                response.close()

    def _hold(self, key: str) -> None:
        if self._key:
            self._driver.release(self._key)
            self._key = ""
        if key:
            self._driver.acquire(key)
            self._key = key

    def close(self) -> None:
        self._shut()
        self._hold("")
