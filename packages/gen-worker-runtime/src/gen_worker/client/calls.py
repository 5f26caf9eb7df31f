"""Calls that somebody waits for, and requests that somebody comes back to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.client.addresses import call_path
from gen_worker.client.errors import CallError, StreamRestartedError, error_of_answer
from gen_worker.client.following import Follower
from gen_worker.client.payloads import body_of, encode_payload, paths_in, payload_of
from gen_worker.client.steps import Question, give, pause
from gen_worker.client.values import decoded
from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.client.files import Uploads
    from gen_worker.client.host import Host
    from gen_worker.client.limits import Limits
    from gen_worker.client.steps import Flow
    from gen_worker.client.values import StreamEvent

    OnEvent = Callable[[StreamEvent], object]
    OnRestart = Callable[[int], object]

__all__ = ["Call", "Order", "follow", "order_of", "read_as", "result_of", "submit"]

SUBMIT_PATH = "/v1/requests"
_GRACE_S = 5.0
"""The host ends a call at its deadline itself; its answer may be on the way."""
_NOTHING_YIELDED = {"yielded": 0}


class Order(NamedTuple):
    """What to call, and how."""

    function: str
    payload: Any
    timeout_s: float | None = None
    key: str = ""
    """The caller's own `Idempotency-Key`."""
    envelope: Mapping[str, Any] | None = None


def order_of(
    function: str,
    payload: Any,
    fields: Mapping[str, Any],
    timeout_s: float | None,
    key: str,
    envelope: Mapping[str, Any] | None,
) -> Order:
    """Return what a caller asks for with a payload or its fields.

    Raises:
        TypeError: Both were given.
    """
    return Order(function, payload_of(payload, fields), timeout_s, key, envelope)


def new_id() -> str:
    """Return an id that no request has: who asks chooses it, so that it can always be canceled."""
    return f"c-{os.urandom(12).hex()}"


def _prepared(order: Order, uploads: Uploads) -> Flow[bytes]:
    """Return the payload's JSON, with its files uploaded."""
    paths = paths_in(order.payload)
    refs: dict[str, str] = {}
    for path in paths:
        uploaded = yield from uploads.upload(path)
        refs[path] = uploaded.ref
    return encode_payload(order.payload, refs)


def submit(host: Host, uploads: Uploads, order: Order) -> Flow[str]:
    """Start a request and return its id; started once, however often it has to be asked for.

    Raises:
        CallError: The host refuses.
    """
    payload = yield from _prepared(order, uploads)
    return (yield from _submit(host, order, payload, host.limits()))


def _submit(host: Host, order: Order, payload: bytes, limits: Limits) -> Flow[str]:
    # Who chooses the key may send the same again tomorrow: then an id of today would be another.
    request_id = "" if order.key else new_id()
    body = body_of(
        payload,
        function=order.function,
        request_id=request_id,
        timeout_s=order.timeout_s,
        envelope=order.envelope,
    )
    question = Question("POST", SUBMIT_PATH, body, headers=_headers(order.key or request_id))
    try:
        reply = yield from host.ask(question, limits)
    except CallError as refusal:
        if request_id and refusal.code == "duplicate_request_id":
            return request_id  # an attempt whose answer was lost had reached the host
        raise
    data = reply.data
    given = data.get("request_id") if isinstance(data, dict) else None
    if not isinstance(given, str) or not given:
        raise CallError("the host accepted a request and gave it no id")
    return given


def _headers(key: str, accept: str = "application/json") -> dict[str, str]:
    return {"content-type": "application/json", "idempotency-key": key, "accept": accept}


class _Answer(msgspec.Struct):
    output: msgspec.Raw = msgspec.Raw(b"null")


class Reading:
    """What a request puts out, from the beginning to the end."""

    def __init__(
        self, host: Host, follower: Follower, request_id: str, on_event: OnEvent | None = None
    ) -> None:
        """Prepare to read.

        Args:
            host: Where the request is.
            follower: Reads its events.
            request_id: Its id.
            on_event: Told of everything that is no output.
        """
        self.follower = follower
        self.request_id = request_id
        self.failure: CallError | None = None
        """How the request failed, once it has."""
        self.is_streamed = False
        """Whether the output is a list of items."""
        self._host = host
        self._on_event = on_event or _ignore

    @property
    def is_over(self) -> bool:
        return self.follower.is_over

    def more(self, restart: OnRestart) -> Flow[list[bytes]]:
        """Return the items that come next, possibly none; of a plain result the result alone.

        Args:
            restart: Called when all the items so far are taken back, with the number of the attempt
                that begins.
        """
        items: list[bytes] = []
        for event in (yield from self.follower.more()):
            if event.name == "delta":
                self.is_streamed = True
                items.append(event.raw)
            elif event.name == "restarted":
                items.clear()
                self._on_event(event)
                restart(_attempt_of(event.data))
            elif event.name == "result":
                items += yield from self._plain(event)
            elif event.name == "error":
                data = event.data
                self.failure = error_of_answer(data if isinstance(data, dict) else {})
                self.failure.request_id = self.failure.request_id or self.request_id
            else:
                self._on_event(event)
        return items

    def _plain(self, event: StreamEvent) -> Flow[list[bytes]]:
        """Return the result of a function that does not stream."""
        if self.is_streamed:
            return []
        output = _output_of(event.raw)
        if decoded(output) == _NOTHING_YIELDED:
            # Of a function that yielded nothing, or of one whose result looks like that.
            shown = yield from self._host.show(self.request_id)
            self.is_streamed = shown.get("output") == []
        return [] if self.is_streamed else [output]

    def whole(self) -> Flow[bytes]:
        """Return the whole output, as JSON.

        Raises:
            CallError: The request failed.
        """
        items: list[bytes] = []

        def restart(_attempt: int) -> None:
            items.clear()

        while not self.is_over:
            items += yield from self.more(restart)
        if self.failure is not None:
            raise self.failure
        return b"[%b]" % b",".join(items) if self.is_streamed else items[0]


class Call:
    """One call that somebody waits for; who goes away before its end leaves it with `leave`."""

    def __init__(
        self, host: Host, uploads: Uploads, order: Order, on_event: OnEvent | None = None
    ) -> None:
        """Prepare a call.

        Args:
            host: Where to.
            uploads: What the host has of this client's files.
            order: What to call.
            on_event: Told of what the handler reports.
        """
        self._host = host
        self._uploads = uploads
        self._order = order
        self._on_event = on_event
        self._limits = host.limits(order.timeout_s, _GRACE_S)
        self._reading: Reading | None = None
        self._left_attempts = host.retry.call_attempts
        self._patience = self._limits.patience()

    def output(self) -> Flow[bytes]:
        """Return the output as JSON."""
        payload = yield from _prepared(self._order, self._uploads)
        while True:
            reading = yield from self._begin(payload)
            try:
                return (yield from reading.whole())
            except CallError as failure:
                yield from self._before_another(failure, reading)

    def items(self, item_type: Any, on_restart: OnRestart | None) -> Flow[None]:
        """Give each item of the output as it comes.

        Raises:
            StreamRestartedError: Items that were given are taken back, and nobody is told.
        """
        payload = yield from _prepared(self._order, self._uploads)
        given = 0

        def restart(attempt: int) -> None:
            nonlocal given
            if given and on_restart is None:
                raise StreamRestartedError(
                    f"the request began anew after {given} items: they do not count; "
                    "give `on_restart` to go on with those of the next attempt",
                    retryable=True,
                    attempt=attempt,
                    request_id=reading.request_id,
                )
            if given and on_restart is not None:
                on_restart(attempt)
            given = 0

        while True:
            reading = yield from self._begin(payload)
            while not reading.is_over:
                for item in (yield from reading.more(restart)):
                    given += 1
                    yield from give(read_as(item, item_type))
            if reading.failure is None:
                return
            if given:
                raise reading.failure
            yield from self._before_another(reading.failure, reading)

    def _begin(self, payload: bytes) -> Flow[Reading]:
        order, limits = self._order, self._limits
        left_s = limits.left_s()
        if order.key:
            request_id = yield from _submit(self._host, order, payload, limits)
            opening = None
        else:
            request_id = new_id()
            body = body_of(
                payload, request_id=request_id, timeout_s=left_s, envelope=order.envelope
            )
            headers = _headers(request_id, "text/event-stream")
            opening = Question("POST", call_path(order.function), body, headers=headers)
        limits.request_id = request_id
        follower = Follower(request_id, limits, opening=opening)
        self._reading = Reading(self._host, follower, request_id, self._on_event)
        return self._reading

    def _before_another(self, failure: CallError, reading: Reading) -> Flow[None]:
        """Wait for another attempt at a call that failed for a reason that may be gone then."""
        self._left_attempts -= 1
        pause_s = self._patience.pause_s(failure.retry_after_s)
        is_final = failure is not reading.failure or not failure.retryable
        if is_final or not self._left_attempts or pause_s is None:
            raise failure
        yield from pause(self._limits.allowed(pause_s, failure))

    @property
    def may_run(self) -> bool:
        """Whether to cancel it when nobody waits for it; not with a key of the caller's own."""
        reading = self._reading
        is_left = reading is None or reading.is_over or bool(self._order.key)
        return not is_left and reading is not None and reading.follower.has_begun

    def leave(self) -> Flow[None]:
        """Cancel it, if it may run."""
        if self.may_run and self._reading is not None:
            yield from self._host.leave(self._reading.request_id)


def follow(host: Host, request_id: str, after: int) -> Flow[None]:
    """Give every event of a request after one, to its end."""
    follower = Follower(request_id, host.limits(), after=after)
    while not follower.is_over:
        for event in (yield from follower.more()):
            yield from give(event)


def result_of(host: Host, request_id: str, timeout_s: float | None) -> Flow[bytes]:
    """Wait for the end of a request and return its whole output."""
    limits = host.limits(timeout_s)
    limits.request_id = request_id
    return (yield from Reading(host, Follower(request_id, limits), request_id).whole())


def read_as(data: bytes, wanted: Any) -> Any:
    """Decode a piece of output.

    Args:
        data: JSON.
        wanted: A type; None leaves it as JSON has it.

    Raises:
        ValidationError: It is of another type.
    """
    try:
        return (
            msgspec.json.decode(data) if wanted is None else msgspec.json.decode(data, type=wanted)
        )
    except (ValueError, RecursionError) as error:
        name = "JSON" if wanted is None else getattr(wanted, "__name__", str(wanted))
        raise ValidationError(f"the output is no {name}: {error}") from error


def _output_of(answer: bytes) -> bytes:
    try:
        return bytes(msgspec.json.decode(answer, type=_Answer).output)
    except (ValueError, RecursionError) as error:
        raise CallError("the host's answer cannot be read") from error


def _attempt_of(data: Any) -> int:
    attempt = data.get("attempt") if isinstance(data, dict) else 0
    return attempt if isinstance(attempt, int) else 0


def _ignore(_event: StreamEvent) -> None:
    """Let an event pass that nobody asked for."""
