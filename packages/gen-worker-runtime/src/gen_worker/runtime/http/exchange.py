"""One request and its answer over plain ASGI, for the routes that have to be quick."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Scope = Mapping[str, Any]
    Headers = dict[bytes, bytes]
    Answer = Callable[[int, bytes, tuple[tuple[bytes, bytes], ...]], None]

__all__ = [
    "CONNECTION",
    "ClientGoneError",
    "Departures",
    "DismissedError",
    "Express",
    "Guest",
    "Leaver",
    "read_body",
    "respond",
    "send_events",
    "start_events",
]

T = TypeVar("T")

CONNECTION = "gen_worker.connection"
"""Extension of a scope: the connection itself, which tells its `leaver` when it is lost."""

_JSON = (b"content-type", b"application/json")
_EVENTS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_LOOK_S = 0.001
_SHORT = 6  # digits of a length that is within every limit


class ClientGoneError(Exception):
    """Nobody waits for an answer any more."""


class DismissedError(Exception):
    """Whoever waits is to come back: the answer will not be made in this process."""


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: 413, it is too long; it is then not read to its end.
        ClientGoneError: It was not sent to its end.
    """
    length = headers.get(b"content-length", b"")
    if len(length) > _SHORT and (not length.isdigit() or int(length) > max_bytes):
        raise _too_long(max_bytes)
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        if len(parts) + len(body) > max_bytes:
            raise _too_long(max_bytes)
        if not message.get("more_body"):
            return bytes(parts + body) if parts else body  # nearly always there at once
        parts += body


def _too_long(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body has more than {max_bytes} bytes")


async def respond(
    send: Send, status: int, body: bytes, *more: tuple[bytes, bytes], has_body: bool = True
) -> None:
    """Answer with JSON; without it where only the head is asked for."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *more]})
    await send({"type": "http.response.body", "body": body if has_body else b""})


async def start_events(send: Send) -> None:
    """Begin an answer that is a stream of events."""
    await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})


async def send_events(send: Send, data: bytes, *, is_last: bool = False) -> None:
    """Send some events; waits while the client is behind."""
    await send({"type": "http.response.body", "body": data, "more_body": not is_last})


class Leaver(Protocol):
    """Somebody whose client may leave."""

    receive: Receive
    is_over: bool
    """Whether there is nothing left to cancel."""

    def left(self) -> None:
        """Take note that the client has gone."""
        ...


class Express(Protocol):
    """An application's `express`: answers some requests without the task that ASGI needs for each.

    Our own server asks it about every request that came in one piece. An application is complete
    without it.
    """

    def __call__(self, url: bytes, headers: Headers, body: bytes, answer: Answer) -> Leaver | None:
        """Take a POST on, or return None to have it called in the usual way.

        Args:
            url: As the client sent it.
            headers: By their names in lower case.
            body: All of it.
            answer: To be called once, later, on the loop: status, JSON, more headers.

        Returns:
            Whose client it is.
        """
        ...


class Departures:
    """Tells calls that their client has gone.

    Our own server says so itself (`CONNECTION`). Elsewhere each call has a task that watches, but
    not at once: most are over before anybody could leave.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fresh: list[Leaver] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, leaver: Leaver, scope: Scope) -> None:
        """Call `leaver.left` when the client of this scope goes."""
        extension = (scope.get("extensions") or {}).get(CONNECTION)
        if extension is not None:
            extension[CONNECTION].leaver = leaver
            return
        self._fresh.append(leaver)
        if len(self._fresh) == 1:
            self._loop.call_later(_LOOK_S, self._look)

    def forget(self, scope: Scope) -> None:
        """Note that nothing is under way for this client any more."""
        extension = (scope.get("extensions") or {}).get(CONNECTION)
        if extension is not None:
            extension[CONNECTION].leaver = None

    def _look(self) -> None:
        fresh, self._fresh = self._fresh, []
        for leaver in fresh:
            if not leaver.is_over:
                task = self._loop.create_task(_wait_for_departure(leaver))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


async def _wait_for_departure(leaver: Leaver) -> None:
    # A server also says this when the answer was sent, so the task always ends.
    while (await leaver.receive())["type"] != "http.disconnect":
        pass
    if not leaver.is_over:
        leaver.left()


class Guest:
    """A client who waits for what goes on without it. In one task."""

    is_over = False

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.has_left = False
        self._is_dismissed = False
        self._task: asyncio.Task[Any] | None = None

    def left(self) -> None:
        self.has_left = True
        self._interrupt()

    def dismiss(self) -> None:
        """Have it wait no longer: what it waits for will not come here any more."""
        self._is_dismissed = True
        self._interrupt()

    async def until(self, wanted: Coroutine[Any, Any, T]) -> T:
        """Wait for something while the client is there.

        Raises:
            ClientGoneError: It has gone.
            DismissedError: It was told to come back.
        """
        if self.has_left or self._is_dismissed:
            wanted.close()
            raise self._parting()
        self._task = task = asyncio.current_task()
        assert task is not None, "routes are tasks"
        try:
            return await wanted
        except asyncio.CancelledError:
            if not (self.has_left or self._is_dismissed) or task.uncancel():
                raise  # somebody else cancels, too
            raise self._parting() from None
        finally:
            self._task = None

    def _parting(self) -> Exception:
        return ClientGoneError() if self.has_left else DismissedError()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
