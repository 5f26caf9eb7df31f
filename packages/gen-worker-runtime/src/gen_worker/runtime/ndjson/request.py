"""One call of one client: the sink the engine delivers to, writing the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import CanceledError, OutputTooLargeError, classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.ndjson import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.events import Event
    from gen_worker.runtime.engine import RunningCall
    from gen_worker.runtime.ndjson.connection import Connection
    from gen_worker.runtime.ndjson.frames import Frame
    from gen_worker.runtime.ndjson.server import Server

__all__ = ["Request"]


class Request:
    """One call and its answer: the `Sink` the engine delivers to."""

    # Class attributes, so that a short call stores only what it needs.
    is_detached = False
    """Whether it goes on without its client."""
    _call: RunningCall | None = None
    _is_canceled = False
    _collected: list[bytes] | None = None
    _collected_bytes = 0
    _refusal: Failure | None = None

    def __init__(
        self, server: Server, connection: Connection, frame: Frame, size_bytes: int
    ) -> None:
        self._server = server
        self._connection = connection
        self._frame = frame
        self.request_id = frame.request_id or server.next_request_id()
        self.size_bytes = size_bytes
        self.wants_events = frame.events

    def start(self) -> None:
        """Submit the call, unless it was canceled while it waited for its turn."""
        frame, server = self._frame, self._server
        if self._is_canceled:
            failure = classify(CanceledError(), origin="input")
            self._end(frames.error_line(failure, frame.request_id))
            return
        payload = bytes(frame.payload)
        invocation = Invocation(
            function=frame.function,
            payload=b"{}" if payload == b"null" else payload,
            result_format="json",
            request_id=self.request_id,
            job_id=self.request_id,
            owner=server.owner,
            timeout_ms=frame.timeout_ms,
            device=server.device,
        )
        self._call = server.engine.submit(invocation, self)

    def cancel(self, reason: CancelReason) -> bool:
        """Cancel it, running or waiting; False when it was canceled before."""
        if self._call is not None:
            return self._call.token.cancel(reason)
        was_canceled, self._is_canceled = self._is_canceled, True
        return not was_canceled

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def deliver(self, batch: Sequence[Event]) -> None:
        """Write what happened, joined into one write."""
        last, frame = batch[-1], self._frame
        # `isinstance` is quick only when it is true: it asks the metaclass of a struct otherwise.
        if frame.stream:
            self._deliver_stream(batch)
        elif isinstance(last, Result):
            if len(batch) == 1 and self._collected is None:
                line = frames.result_line(last, frame.request_id)
            else:
                items = frames.event_items(batch, frame.request_id)
                line = frames.answer_line([*(self._collected or ()), items], frame.request_id)
            self._end(line)
        elif isinstance(last, Failed):
            self._end(self._error_line(last))
        else:
            self._collect(frames.event_items(batch, frame.request_id))

    def _deliver_stream(self, batch: Sequence[Event]) -> None:
        last, request_id = batch[-1], self._frame.request_id
        data = frames.event_lines(batch, request_id)
        if isinstance(last, Delta):
            self._connection.write(data)
        elif isinstance(last, Result):
            self._end(data + frames.done_line(request_id))
        elif isinstance(last, Failed):
            self._end(data + self._error_line(last))
        elif data:
            self._connection.write(data)

    def _collect(self, items: bytes) -> None:
        """Keep what a function streams to a client that waits for the whole answer."""
        if self._refusal is not None:
            return
        if self._collected is None:
            self._collected = []
        self._collected.append(items)
        self._collected_bytes += len(items)
        limit = self._server.limits.max_answer_bytes
        if self._collected_bytes > limit:
            text = f"the answer has more than {limit} bytes: ask for it with `stream`"
            error = OutputTooLargeError(text, size_bytes=self._collected_bytes, max_bytes=limit)
            self._refusal = classify(error, origin="input")
            self._collected.clear()
            self.cancel("interrupt")

    def _error_line(self, failed: Failed) -> bytes:
        failure = self._refusal or failed.failure
        self._server.report(failure)
        frame = self._frame
        return frames.error_line(failure, frame.request_id, with_traceback=frame.traceback)

    def _end(self, data: bytes) -> None:
        self._call = None  # which holds this: a cycle would keep both until the collector comes
        self._connection.finish(self, data)
