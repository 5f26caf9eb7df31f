"""A stream is read whole, whatever becomes of its connections; no network is needed to see that."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import errors
from gen_worker.client import (
    CallError,
    RetryPolicy,
    StreamGapError,
    StreamRestartedError,
    UnknownRequestError,
    UnreachableError,
)
from gen_worker.client.calls import Call, Order
from gen_worker.client.errors import error_of_refusal
from gen_worker.client.files import Uploads
from gen_worker.client.following import Follower
from gen_worker.client.host import Host
from gen_worker.client.retries import Patience, read_retry_after
from gen_worker.client.sse import Frame, FrameReader, FrameTooLargeError
from gen_worker.client.steps import Give, Head, LostError, Next, Open, Pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.client.steps import Flow, Step

END = ("result", {"output": {"yielded": 3}, "success": True})
NEVER_GIVES_UP = RetryPolicy(attempts=10_000, first_s=0.0)


class Server:
    """Answers with the events of one request, cut where it is told, and notes what it was asked."""

    def __init__(self, events: list[tuple[str, Any]], *, cut: Callable[[int], int | None]) -> None:
        self.frames = [
            b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name.encode(), msgspec.json.encode(data))
            for number, (name, data) in enumerate(events, 1)
        ]
        self.cut = cut
        self.asked: list[tuple[str, str, int]] = []
        self.refusals: list[tuple[Head, bytes]] = []
        self.posts_lost = 0
        self.pauses: list[float] = []
        self._left = b""
        self._breaks = False

    def take(self, step: Step) -> Any:
        match step:
            case Open():
                return self._open(step)
            case Next():
                return self._next()
            case Pause():
                self.pauses.append(step.seconds)
        return None

    def _open(self, step: Open) -> Head:
        question = step.question
        last = int(question.headers.get("last-event-id", 0))
        self.asked.append((question.method, question.path, last))
        if question.method == "POST" and self.posts_lost:
            self.posts_lost -= 1
            raise LostError("the connection broke off")
        if self.refusals:
            head, self._left = self.refusals.pop(0)
            self._breaks = False
            return head
        data = b": hello\n\n" + b"".join(self.frames[last:])
        size = self.cut(len(data))
        self._breaks = size is not None
        self._left = data if size is None else data[:size]
        return Head(200, {})

    def _next(self) -> bytes:
        if not self._left and self._breaks:
            raise LostError("the connection broke off")
        size = random.randint(1, 40)
        data, self._left = self._left[:size], self._left[size:]
        return data


def drive(flow: Flow[Any], server: Server) -> tuple[list[Any], Any]:
    """Take every step; return what was given, and the result."""
    given: list[Any] = []
    answer: Any = None
    error: Exception | None = None
    while True:
        try:
            step = flow.send(answer) if error is None else flow.throw(error)
        except StopIteration as end:
            return given, end.value
        answer = error = None
        if isinstance(step, Give):
            given.append(step.item)
            continue
        try:
            answer = server.take(step)
        except Exception as raised:
            error = raised


def events_of(server: Server, retry: RetryPolicy = NEVER_GIVES_UP, after: int = 0) -> list[Any]:
    follower = Follower("r", Host(retry, 60.0).limits(), after=after)

    def read() -> Flow[list[Any]]:
        found: list[Any] = []
        while not follower.is_over:
            found += yield from follower.more()
        return found

    _, found = drive(read(), server)
    return [event.id for event in found]


def whole(_size: int) -> None:
    """Cut nothing off."""


def call_of(server: Server, **options: Any) -> tuple[list[Any], Any]:
    host = Host(NEVER_GIVES_UP, 60.0)
    call = Call(host, Uploads(host), Order("f", {}))
    on_restart = options.pop("on_restart", None)
    flow = call.items(None, on_restart) if options.pop("is_stream", False) else call.output()
    return drive(flow, server)


deltas = st.lists(st.text(max_size=20).map(lambda text: ("delta", {"text": text})), max_size=12)


@given(deltas, st.lists(st.floats(0, 1), max_size=30), st.integers(0, 5))
def test_no_event_is_missed_and_none_comes_twice(
    items: list[tuple[str, Any]], cuts: list[float], after: int
) -> None:
    left = list(cuts)
    server = Server([*items, END], cut=lambda size: int(left.pop() * size) if left else None)
    after = min(after, len(items))
    assert events_of(server, after=after) == list(range(after + 1, len(items) + 2))
    assert len(server.asked) <= len(cuts) + 1


@given(deltas, st.lists(st.floats(0, 1), max_size=10), st.integers(0, 3))
def test_a_call_is_asked_for_until_it_is_known_to_have_arrived(
    items: list[tuple[str, Any]], cuts: list[float], lost: int
) -> None:
    left = list(cuts)
    server = Server([*items, END], cut=lambda size: int(left.pop() * size) if left else None)
    server.posts_lost = lost
    given, _ = call_of(server, is_stream=True)
    if items:
        assert given == [data for _, data in items]
    methods = [method for method, _, _ in server.asked]
    assert methods[: lost + 1] == ["POST"] * (lost + 1)
    assert "POST" not in methods[lost + 1 :]


def test_an_answer_that_was_lost_is_found_again() -> None:
    """The host has the request, and says that its id is taken: the client's own."""
    server = Server([("delta", 1), END], cut=whole)
    server.posts_lost = 1
    server.refusals = [(Head(409, {}), b'{"error": "duplicate_request_id", "message": "m"}')]
    _, output = call_of(server)
    assert output == b"[1]"
    assert [method for method, _, _ in server.asked] == ["POST", "POST", "GET"]


def test_an_id_that_was_taken_before_is_an_error() -> None:
    server = Server([END], cut=whole)
    server.refusals = [(Head(409, {}), b'{"error": "duplicate_request_id", "message": "m"}')]
    with pytest.raises(CallError) as caught:
        call_of(server)
    assert caught.value.code == "duplicate_request_id"


def test_a_busy_host_is_asked_again_when_it_says() -> None:
    server = Server([("delta", 1), END], cut=whole)
    server.refusals = [
        (Head(429, {"retry-after": "7"}), b'{"error": "worker_overloaded", "message": "m"}'),
        (Head(503, {"retry-after": "3"}), b'{"error": "draining", "message": "m"}'),
        (Head(502, {}), b"<html>"),
    ]
    assert call_of(server)[1] == b"[1]"
    assert server.pauses == [7.0, 3.0, 0.0]


def test_a_host_that_asks_for_too_long_a_pause_is_not_waited_for() -> None:
    server = Server([END], cut=whole)
    server.refusals = [(Head(429, {"retry-after": "61"}), b"{}")]
    with pytest.raises(CallError) as caught:
        call_of(server)
    assert caught.value.retry_after_s == 61.0
    assert server.pauses == []


def test_patience_ends_unless_something_was_achieved() -> None:
    server = Server([("delta", index) for index in range(50)] + [END], cut=lambda _size: 95)
    assert len(events_of(server, RetryPolicy(attempts=3, first_s=0.0))) == 51
    server = Server([END], cut=lambda _size: 5)
    with pytest.raises(UnreachableError, match="broke off"):
        events_of(server, RetryPolicy(attempts=3, first_s=0.0))
    assert len(server.asked) == 3


RESTART = [("delta", 1), ("delta", 2), ("restarted", {"attempt": 2}), ("delta", 3), END]


def test_a_restart_takes_items_back() -> None:
    assert call_of(Server(RESTART, cut=whole))[1] == b"[3]"
    told: list[int] = []
    given, _ = call_of(Server(RESTART, cut=lambda _: None), is_stream=True, on_restart=told.append)
    assert given[-1] == 3
    assert told in ([2], [])
    assert len(told) == (len(given) > 1)


def test_a_restart_that_nobody_is_told_of_ends_a_stream() -> None:
    one_by_one = iter([55, 110, None, None])
    server = Server(RESTART, cut=lambda _size: next(one_by_one))
    with pytest.raises(StreamRestartedError) as caught:
        call_of(server, is_stream=True)
    assert caught.value.attempt == 2
    assert caught.value.retryable
    begun = Server([("restarted", {"attempt": 2}), ("delta", 3), END], cut=whole)
    assert call_of(begun, is_stream=True)[0] == [3], "nothing was given that could be taken back"


def test_what_is_forgotten_is_an_error() -> None:
    server = Server([("delta", 1), END], cut=whole)
    server.frames.insert(0, b'event: gap\ndata: {"from": 1, "to": 4}\n\n')
    server.frames[1] = server.frames[1].replace(b"id: 1", b"id: 5")
    with pytest.raises(StreamGapError) as caught:
        events_of(server)
    assert (caught.value.first, caught.value.last) == (1, 4)
    server.frames[0] = b""
    with pytest.raises(StreamGapError) as caught:
        events_of(server)
    assert (caught.value.first, caught.value.last) == (1, 4)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.text(max_size=30)), max_size=8), st.data())
def test_frames_are_found_however_they_are_cut(
    events: list[tuple[int, str]], data: st.DataObject
) -> None:
    frames = [Frame(number, "delta", msgspec.json.encode(text)) for number, text in events]
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = b"".join(
        end.join([b": ping", b"", *([b"id: %d" % f.id] if f.id else []), b"event: delta"])
        + end
        + b"data: "
        + f.data
        + end
        + end
        for f in frames
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    assert found == frames


@given(st.binary(max_size=200))
def test_anything_can_be_read(data: bytes) -> None:
    reader = FrameReader()
    assert all(isinstance(frame, Frame) for frame in reader.feed(data))


def test_an_event_without_end_is_refused() -> None:
    reader = FrameReader(max_bytes=100)
    for _ in range(9):
        assert reader.feed(b"data: 0123456789\n") == []
    with pytest.raises(FrameTooLargeError):
        reader.feed(b"data: 01234567890\n")


def test_pauses_grow_and_end() -> None:
    policy = RetryPolicy(attempts=5, first_s=1.0, max_s=3.0, jitter=0.5)
    patience = Patience(policy, chance=lambda: 0.0)
    assert [patience.pause_s() for _ in range(5)] == [1.0, 2.0, 3.0, 3.0, None]
    patience = Patience(policy, chance=lambda: 1.0)
    assert [patience.pause_s(), patience.pause_s(10.0)] == [0.5, 10.0]
    patience.renew()
    assert patience.pause_s() == 0.5


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"call_attempts": 0}, {"jitter": 2.0}, {"first_s": -1.0}]
)
def test_a_policy_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"error": "unauthorized", "message": "m"}, 401, errors.AuthError),
        ({"error": "body_too_large", "message": "m"}, 413, errors.InputTooLargeError),
        ({"error": "idempotency_conflict", "message": "m"}, 409, errors.DuplicateRequestError),
        ({"error": "unknown_request", "message": "m"}, 404, UnknownRequestError),
        ({"error": "file_not_found", "message": "m"}, 404, UnknownRequestError),
        ({"error": "unknown_function", "error_type": "internal"}, 404, errors.UnknownFunctionError),
        ({"error": "busy", "error_type": "worker_overloaded"}, 429, errors.OverloadedError),
        ({"error": "invalid_body", "message": "m"}, 400, errors.ValidationError),
        (None, 502, errors.RetryableError),
        ("no object", 500, CallError),
    ],
)
def test_a_refusal_has_its_class(body: Any, status: int, kind: type[Exception]) -> None:
    error = error_of_refusal(body, status, request_id="r")
    assert isinstance(error, kind)
    assert (error.http_status, error.request_id) == (status, "r")


def test_a_refused_model_names_its_parameter() -> None:
    body = {"error": "unknown_override_param", "error_type": "validation", "message": "m"}
    error = error_of_refusal({**body, "path": "$._models.pipe", "retryable": False}, 400)
    assert isinstance(error, errors.OverrideError)
    assert (error.code, error.param, str(error)) == ("unknown_override_param", "pipe", "m")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        ("soon", 0.0),
        ("-1", 0.0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
        ("9" * 40, 0.0),
    ],
)
def test_retry_after_is_read(header: str, seconds: float) -> None:
    assert read_retry_after(header) == seconds
