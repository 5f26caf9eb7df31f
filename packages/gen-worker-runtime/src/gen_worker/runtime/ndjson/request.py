"""One call of one client: the sink the engine delivers to, writing the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import OutputTooLargeError, classify
from gen_worker.events import Delta, Failed, Result, context_record
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.ndjson import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.events import Event
    from gen_worker.runtime.engine import RunningCall
    from gen_worker.runtime.ndjson.connection import Connection
    from gen_worker.runtime.ndjson.server import Server

__all__ = ["Request"]


class Request:
    """One call and its answer: the `Sink` the engine delivers to."""

    __slots__ = (
        "_call",
        "_collected",
        "_collected_bytes",
        "_connection",
        "_frame",
        "_refusal",
        "request_id",
        "wants_events",
    )

    def __init__(self, connection: Connection, frame: frames.Frame, request_id: str) -> None:
        self._connection = connection
        self._frame = frame
        self._call: RunningCall | None = None
        self._collected: list[tuple[str, object]] = []
        self._collected_bytes = 0
        self._refusal: Failure | None = None
        self.request_id = request_id
        self.wants_events = frame.events

    @property
    def keep_alive(self) -> bool:
        return self._frame.keep_alive

    def start(self, server: Server) -> None:
        frame = self._frame
        invocation = Invocation(
            function=frame.function,
            payload=b"{}" if (payload := bytes(frame.payload)) == b"null" else payload,
            result_format="json",
            request_id=self.request_id,
            timeout_ms=frame.timeout_ms,
            device=server.device,
        )
        try:
            self._call = server.engine.submit(invocation, self)
        except Exception as error:
            self._end(frames.error_line(classify(error, origin="input"), frame.request_id))

    def cancel(self, reason: CancelReason) -> bool:
        return self._call is not None and self._call.token.cancel(reason)

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def deliver(self, batch: Sequence[Event]) -> None:
        """Write what happened, joined into one write."""
        if self._frame.stream:
            self._deliver_stream(batch)
        else:
            self._deliver_whole(batch)

    def _deliver_stream(self, batch: Sequence[Event]) -> None:
        echo = self._frame.request_id
        lines: list[bytes] = []
        is_over = False
        for event in batch:
            if isinstance(event, Failed):
                lines.append(frames.error_line(event.failure, echo))
                is_over = True
            elif isinstance(event, Result):
                lines.append(frames.event_line("result", event.value, echo))
                lines.append(frames.done_line(echo))
                is_over = True
            elif (pair := _as_frame(event)) is not None:
                lines.append(frames.event_line(*pair, echo))
        if is_over:
            self._end(b"".join(lines))
        elif lines:
            self._connection.write(b"".join(lines))

    def _deliver_whole(self, batch: Sequence[Event]) -> None:
        echo = self._frame.request_id
        for event in batch:
            if isinstance(event, Failed):
                self._end(frames.error_line(self._refusal or event.failure, echo))
            elif isinstance(event, Result):
                self._collected.append(("result", event.value))
                self._end(frames.answer_line(self._collected, echo))
            elif (pair := _as_frame(event)) is not None:
                self._collect(*pair)

    def _collect(self, name: str, value: object) -> None:
        if self._refusal is not None:
            return
        self._collected.append((name, value))
        self._collected_bytes += len(value) if isinstance(value, msgspec.Raw) else 0
        limit = self._connection.limits.max_answer_bytes
        if self._collected_bytes > limit:
            text = f"the answer has more than {limit} bytes: ask for it with `stream`"
            error = OutputTooLargeError(text, size_bytes=self._collected_bytes, max_bytes=limit)
            self._refusal = classify(error, origin="input")
            self._collected.clear()
            self.cancel("interrupt")

    def _end(self, data: bytes) -> None:
        self._connection.write(data)
        self._connection.finished(self)


def _as_frame(event: Event) -> tuple[str, object] | None:
    """Name a value of the stream; None for what clients do not see."""
    if isinstance(event, Delta):
        return ("yield", event.value)
    record = context_record(event)
    return None if record is None else ("context", record)
