"""Reads the events of one request to their end, whatever becomes of connections in between."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.client.addresses import events_path
from gen_worker.client.errors import (
    CallError,
    StreamGapError,
    UnreachableError,
    error_of_refusal,
)
from gen_worker.client.sse import FrameReader, FrameTooLargeError
from gen_worker.client.steps import LostError, Question, next_bytes, open_stream, pause
from gen_worker.client.values import StreamEvent, decoded

if TYPE_CHECKING:
    from gen_worker.client.limits import Limits
    from gen_worker.client.sse import Frame
    from gen_worker.client.steps import Flow

__all__ = ["Follower"]

_MAX_REFUSAL_BYTES = 1024 * 1024
_REST_S = 1.0
"""Of silence, after which a host that does not end a stream is not waited for."""
_OWN_ID = "duplicate_request_id"


class Follower:
    """One reader of one request."""

    def __init__(
        self,
        request_id: str,
        limits: Limits,
        *,
        opening: Question | None = None,
        after: int = 0,
    ) -> None:
        """Prepare to read.

        Args:
            request_id: Of the request.
            limits: How long and how often.
            opening: Starts the request and answers with its events; asked until it is known to
                have reached the host, which recognises it. None: the request is there already.
            after: Id of the last event that is not wanted.
        """
        self.is_over = False
        """Whether the last event was read."""
        self.has_begun = opening is None
        """Whether the host may have the request."""
        self.last_id = after
        self._request_id = request_id
        self._limits = limits
        self._opening = opening
        self._was_lost = False
        self._is_open = False
        self._reader = FrameReader()
        self._patience = limits.patience()

    def more(self) -> Flow[list[StreamEvent]]:
        """Return the next events, at least one; must not be asked when it is over.

        Raises:
            StreamGapError: Events that come next are not kept any more.
            CallError: The host refuses.
            UnreachableError: It does not answer.
        """
        while True:
            try:
                if not self._is_open:
                    failed = yield from self._open()
                    if failed is not None:
                        self.is_over = True
                        return [failed]
                data = yield from next_bytes(self._limits.silence_s())
                if not data:
                    raise LostError("the stream ended before the request did")
            except LostError as error:
                self._is_open = False
                self._limits.check()
                yield from self._wait(
                    UnreachableError(
                        f"the host cannot be reached: {error}",
                        request_id=self._request_id,
                        retryable=True,
                    ),
                    error,
                )
                continue
            events = self._events(data)
            if events:
                self._patience.renew()
                self.is_over = events[-1].is_last
                if self.is_over:
                    yield from self._rest()
                return events

    def _rest(self) -> Flow[None]:
        """Read the end of a stream whose last event was read: its connection can be used again."""
        with suppress(LostError):
            while (yield from next_bytes(_REST_S)):
                pass

    def _open(self) -> Flow[StreamEvent | None]:
        """Have a stream to read; return the end of a call that failed before it had any events."""
        while True:
            opening = self._opening
            question = opening or self._question()
            self.has_begun = True
            try:
                head = yield from open_stream(question._replace(silence_s=self._limits.silence_s()))
            except LostError as error:
                self._was_lost = self._was_lost or (opening is not None and error.was_sent)
                raise
            if head.status == 200:
                break
            body = yield from self._body()
            if "success" in body:  # the call has ended
                body.setdefault("retry_after_s", head.retry_after_s)
                return StreamEvent(id=0, name="error", raw=msgspec.json.encode(body))
            refusal = error_of_refusal(body, head.status, head.retry_after_s, self._request_id)
            if opening is not None and self._was_lost and refusal.code == _OWN_ID:
                # It had reached the host, whose answer was lost.
                self._opening = None
                continue
            if not refusal.retryable:
                raise refusal
            yield from self._wait(refusal)
        self._opening = None
        self._is_open = True
        self._reader = FrameReader()
        return None

    def _question(self) -> Question:
        headers = {"accept": "text/event-stream"}
        if self.last_id:
            headers["last-event-id"] = str(self.last_id)
        return Question("GET", events_path(self._request_id), headers=headers)

    def _body(self) -> Flow[dict[str, Any]]:
        body = b""
        while len(body) < _MAX_REFUSAL_BYTES:
            data = yield from next_bytes(self._limits.silence_s())
            if not data:
                break
            body += data
        answer = decoded(body)
        return answer if isinstance(answer, dict) else {}

    def _wait(self, failure: CallError, cause: Exception | None = None) -> Flow[None]:
        pause_s = self._patience.pause_s(failure.retry_after_s)
        if pause_s is None:
            raise failure from cause
        yield from pause(self._limits.allowed(pause_s, failure))

    def _events(self, data: bytes) -> list[StreamEvent]:
        try:
            frames = self._reader.feed(data)
        except FrameTooLargeError as error:
            raise CallError(str(error), request_id=self._request_id) from error
        return [event for frame in frames if (event := self._event(frame)) is not None]

    def _event(self, frame: Frame) -> StreamEvent | None:
        """Return what is new to the reader."""
        if frame.id and frame.id <= self.last_id:
            return None
        if frame.name == "gap":
            first, last = _bounds(decoded(frame.data))
            if last <= self.last_id:
                return None
            raise self._gap(max(first, self.last_id + 1), last)
        if frame.id > self.last_id + 1:
            raise self._gap(self.last_id + 1, frame.id - 1)
        self.last_id = frame.id or self.last_id
        return StreamEvent(id=frame.id, name=frame.name, raw=frame.data)

    def _gap(self, first: int, last: int) -> StreamGapError:
        return StreamGapError(
            f"the events {first} to {last} of the request are not kept any more",
            request_id=self._request_id,
            first=first,
            last=last,
        )


def _bounds(data: Any) -> tuple[int, int]:
    record = data if isinstance(data, dict) else {}
    first, last = record.get("from"), record.get("to")
    return (first if isinstance(first, int) else 0), (last if isinstance(last, int) else 0)
