"""One request as its client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.wire import JobResult, StreamDone, StreamError, TokenDelta, WorkerEvent

if TYPE_CHECKING:
    from gen_worker.runtime.wire import JobRequest, Message
    from gen_worker.testing.orchestrator import Orchestrator

__all__ = ["Job"]


class Job:
    """One request and everything a worker said about it."""

    def __init__(self, request: JobRequest, orchestrator: Orchestrator) -> None:
        self.request = request
        self._orchestrator = orchestrator
        self.attempts = 0
        self.results: list[JobResult] = []
        """One; more of the same where a broken connection left doubt."""
        self.deltas: dict[int, TokenDelta] = {}
        """By sequence; one that came twice is here once."""
        self.end: StreamDone | StreamError | None = None
        self.events: list[WorkerEvent] = []
        self.contradictions: list[TokenDelta] = []
        """Deltas that came under a sequence that had said something else."""
        self.late = 0
        """Deltas and ends that came once it was finished."""

    @property
    def text(self) -> str:
        """The streamed text, whole."""
        return "".join(self.deltas[number].delta_text for number in sorted(self.deltas))

    @property
    def is_finished(self) -> bool:
        """Whether the result is here, and the whole stream if there is one."""
        if not self.results:
            return False
        if self.end is not None:
            return len(self.deltas) == self.end.sequence - 1
        # The result of a stream says nothing itself, and may come before the stream does.
        return not self.deltas and (bool(self.results[0].payload) or not self.results[0].success)

    async def result(self, *, timeout_s: float = 30.0) -> JobResult:
        """Wait until the job is finished and return its result."""
        await self._orchestrator.until(lambda: self.is_finished, timeout_s=timeout_s)
        return self.results[0]

    async def output(self, *, timeout_s: float = 30.0) -> Any:
        """Wait for success and return what the function returned, as plain values."""
        result = await self.result(timeout_s=timeout_s)
        assert result.success, f"{result.error_type}: {result.safe_message}"
        return msgspec.msgpack.decode(result.payload) if result.payload else None

    def _begin(self) -> None:
        self.deltas.clear()
        self.end = None

    def _heard(self, message: Message) -> None:
        match message:
            case JobResult():
                self.results.append(message)
            case TokenDelta() | StreamDone() | StreamError() if self.is_finished:
                self.late += 1
            case TokenDelta():
                known = self.deltas.setdefault(message.sequence, message)
                if known != message:
                    self.contradictions.append(message)
            case StreamDone() | StreamError():
                self.end = message
            case WorkerEvent():
                self.events.append(message)
            case _:
                pass
