"""What the gateway is told, what it tells, and the words in which it refuses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import grpc
import msgspec

from gen_worker.errors import FatalError
from gen_worker.runtime.wire import MAX_RECEIVE_BYTES

if TYPE_CHECKING:
    from gen_worker.runtime.auth import Claims
    from gen_worker.runtime.scheduler.gateway.session import Session
    from gen_worker.runtime.wire import Message, Registration, StreamRole

__all__ = [
    "GatewayHandler",
    "GatewayOptions",
    "GatewayStatistics",
    "ListenError",
    "Passage",
    "Refusal",
    "RefusalWord",
    "SessionStatistics",
    "Verify",
    "refusal",
]

RefusalWord = Literal[
    "handler_failed",
    "malformed_message",
    "no_registration",
    "no_token",
    "no_worker_id",
    "replaced",
    "silent",
    "stale_connection",
    "stopping",
    "token_refused",
    "tokens_uncheckable",
    "too_many_workers",
    "unsupported_worker_protocol",
    "wrong_stream",
]
"""What the details of a stream's status begin with, before a colon and a sentence."""

_STATUS: Mapping[RefusalWord, grpc.StatusCode] = {
    "handler_failed": grpc.StatusCode.INTERNAL,
    "malformed_message": grpc.StatusCode.INVALID_ARGUMENT,
    "no_registration": grpc.StatusCode.INVALID_ARGUMENT,
    "no_token": grpc.StatusCode.UNAUTHENTICATED,
    "no_worker_id": grpc.StatusCode.INVALID_ARGUMENT,
    "replaced": grpc.StatusCode.ABORTED,
    "silent": grpc.StatusCode.UNAVAILABLE,
    "stale_connection": grpc.StatusCode.ABORTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "token_refused": grpc.StatusCode.UNAUTHENTICATED,
    "tokens_uncheckable": grpc.StatusCode.UNAVAILABLE,
    "too_many_workers": grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Workers read this word and stop for good.
    "unsupported_worker_protocol": grpc.StatusCode.FAILED_PRECONDITION,
    "wrong_stream": grpc.StatusCode.INVALID_ARGUMENT,
}

Verify = Callable[[str], "Claims"]
"""Returns who bears a token, or raises an `AuthError`; called in a thread, it may block."""


class Refusal(NamedTuple):
    """How a stream ends that is not wanted."""

    status: grpc.StatusCode
    details: str


def refusal(word: RefusalWord, sentence: str) -> Refusal:
    """Return how a stream is refused, in a word that peers read and a sentence for people."""
    return Refusal(_STATUS[word], f"{word}: {sentence}")


class ListenError(FatalError, OSError):
    """The address to listen on is taken, or not this machine's."""

    def __init__(self, message: str, *, address: str) -> None:
        super().__init__(message)
        self.address = address


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decides. Seconds; 0 turns a limit off."""

    silent_after_s: float = 35.0
    """Without a word on any stream, after which a worker counts as lost. It beats its heart every
    ten seconds. Noticed up to a quarter later: what waits to be read is read first, so that
    nobody is lost because this process slept."""
    first_message_s: float = 20.0
    """For the registration of a stream that was opened."""
    forget_after_s: float = 600.0
    """After which a worker that left has a new session when it comes back."""
    max_sessions: int = 10_000
    """Workers, those that are not forgotten included."""
    max_unwritten_bytes: int = MAX_RECEIVE_BYTES
    """Of commands to one worker. Once so much waits for it, more is not taken."""
    trusts_everyone: bool = False
    """Whether workers of other machines are let in without a token."""


class SessionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of one worker, through all its connections."""

    connections: int
    heard: int
    """Messages, heartbeats and registrations included."""
    heard_bytes: int
    passed_over: int
    """Messages that no worker has to send, or of a kind that is not known here."""
    sent: int
    sent_bytes: int
    unwritten: int
    """Commands that wait for the worker to read."""
    unwritten_bytes: int


class GatewayStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of the server, since it was made."""

    connected: int
    sessions: int
    streams: int
    refused: Mapping[str, int]
    """Streams, by the word of the refusal."""


class GatewayHandler(Protocol):
    """The scheduler behind the gateway. Called on the loop; nothing here may block.

    Whatever a call raises ends the stream it was made for, so that the worker says again what is
    in doubt; it is logged.
    """

    def registered(self, session: Session, registration: Registration) -> None:
        """Take note of a worker that has connected, or says anew who it is.

        `registration.in_flight_request_ids` is all that it runs or has yet to answer. What was sent
        on an earlier `session.connection` and is not there has not arrived, and never will.
        There need not be a `lost` between two of these.
        """
        ...

    def heartbeat(self, session: Session, registration: Registration) -> None:
        """Take note of how a worker is doing."""
        ...

    def heard(self, session: Session, message: Message) -> None:
        """Take anything else a worker says.

        Its streams are independent: a result may come before the last deltas of its request, and
        before `registered`, and after `lost`. What was in doubt is said twice.
        """
        ...

    def lost(self, session: Session, reason: str) -> None:
        """Take note that a worker takes no more commands; what it was sent may not have arrived.

        It may be back in a moment, and goes on with what it runs meanwhile.
        """
        ...


class Passage(Protocol):
    """Stands between the streams and the handler, and decides what comes through and when.

    For tests. Messages go through it one at a time for each direction of a stream, which waits.
    """

    async def cross(
        self,
        session: Session,
        role: StreamRole,
        message: Message,
        deliver: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_command: bool,
    ) -> None:
        """Await `deliver` once, or twice, or not at all.

        Args:
            session: Whose stream.
            role: Of the stream.
            message: What crosses it.
            deliver: Has the handler take it, or writes it.
            is_command: Whether it goes to the worker; otherwise it comes from there.
        """
        ...

    def ended(self, session: Session, role: StreamRole) -> None:
        """Take note that a stream is no longer open."""
        ...
