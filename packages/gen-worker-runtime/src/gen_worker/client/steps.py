"""What the protocol needs done: steps that blocking and async code take alike.

The protocol is written once, as generators. Each yields a step and is resumed with what came of it;
a step that did not come about is thrown in as a `LostError`. Who drives one of them knows sockets,
files and clocks, and nothing of the protocol.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gen_worker.client.retries import read_retry_after
from gen_worker.client.values import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Ask",
    "Do",
    "Flow",
    "Give",
    "Head",
    "Hold",
    "LostError",
    "Next",
    "Open",
    "Pause",
    "Question",
    "Reply",
    "Step",
    "ask",
    "do",
    "give",
    "hold",
    "next_bytes",
    "open_stream",
    "pause",
]

T = TypeVar("T")


class LostError(Exception):
    """Nothing came back, or it broke off; never seen by whoever uses a client."""

    def __init__(self, reason: str, *, was_sent: bool = True) -> None:
        """Say what happened.

        Args:
            reason: In a few words, without addresses.
            was_sent: Whether the host may have got the question.
        """
        super().__init__(reason)
        self.was_sent = was_sent


class Question(NamedTuple):
    """What a host is asked."""

    method: str
    path: str
    """Below the host's URL, encoded, with its query."""
    content: bytes | None = None
    file: str = ""
    """Sent as the body, in pieces, in the place of `content`."""
    headers: Mapping[str, str] = {}
    silence_s: float = 60.0
    """How long nothing may come."""


class Head(NamedTuple):
    """How an answer begins."""

    status: int
    headers: Mapping[str, str]

    @property
    def retry_after_s(self) -> float:
        return read_retry_after(self.headers.get("retry-after", ""))


class Reply(NamedTuple):
    """A whole answer."""

    head: Head
    body: bytes

    @property
    def is_ok(self) -> bool:
        return 200 <= self.head.status < 300

    @property
    def data(self) -> Any:
        """The decoded JSON; None when it is none."""
        return decoded(self.body)


class Ask(NamedTuple):
    question: Question


class Open(NamedTuple):
    """Ask, and read the answer piece by piece; what was open before is closed."""

    question: Question


class Next(NamedTuple):
    """Read what comes next of what is open; empty at its end, which closes it."""

    silence_s: float


class Pause(NamedTuple):
    """Let time pass."""

    seconds: float


class Do(NamedTuple):
    """Call something that blocks on the disk."""

    action: Callable[[], Any]


class Give(NamedTuple):
    """Hand something to whoever iterates."""

    item: Any


class Hold(NamedTuple):
    """Be the only one that holds this key, until another is held or the flow ends."""

    key: str


Step = Ask | Open | Next | Pause | Do | Give | Hold
Flow = Generator[Step, Any, T]


def ask(question: Question) -> Flow[Reply]:
    """Ask and read the whole answer.

    Raises:
        LostError: There was none.
    """
    reply: Reply = yield Ask(question)
    return reply


def open_stream(question: Question) -> Flow[Head]:
    """Ask and read only how the answer begins.

    Raises:
        LostError: There was none.
    """
    head: Head = yield Open(question)
    return head


def next_bytes(silence_s: float) -> Flow[bytes]:
    """Read on.

    Raises:
        LostError: It broke off, or nothing came for so long.
    """
    data: bytes = yield Next(silence_s)
    return data


def pause(seconds: float) -> Flow[None]:
    yield Pause(seconds)


def do(action: Callable[[], T]) -> Flow[T]:
    """Call something that blocks; what it raises is raised here."""
    result: T = yield Do(action)
    return result


def give(item: Any) -> Flow[None]:
    yield Give(item)


def hold(key: str) -> Flow[None]:
    yield Hold(key)
