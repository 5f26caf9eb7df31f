"""What a test sees of one call."""

from __future__ import annotations

import builtins
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker import errors
from gen_worker.errors import WorkerError
from gen_worker.events import Delta, Failed, Result, Started
from gen_worker.runtime.engine.payloads import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.errors import Failure
    from gen_worker.events import Event, Telemetry, Timings
    from gen_worker.runtime import Outcome
    from gen_worker.testing.ports import RecordedEvents

__all__ = ["TesterCall", "TesterResult"]


class TesterResult(msgspec.Struct, frozen=True, kw_only=True):
    """A call that has ended."""

    __test__ = False  # pytest would take it for a test class

    request_id: str
    outcome: Result | Failed
    deltas: list[Any]
    """What the handler yielded."""
    events: list[Any]
    """Telemetry of the call, in order: `Started`, `Progress`, `Log`, `Emitted`."""

    @property
    def value(self) -> Any:
        """What the handler returned; of a stream, `{"yielded": <count>}`.

        Raises:
            Exception: The call failed: an error of the class that failed it where that class can be
                found, else a `WorkerError`; its notes have the handler's traceback.
        """
        if isinstance(self.outcome, Failed):
            raise _error_of(self.outcome.failure)
        return self.outcome.value

    @property
    def failure(self) -> Failure | None:
        return self.outcome.failure if isinstance(self.outcome, Failed) else None

    @property
    def timings(self) -> Timings:
        return self.outcome.timings


class TesterCall:
    """A call that may be running still. It is its own sink."""

    __test__ = False  # as above
    wants_events = False

    def __init__(self, request_id: str, token: CancelToken, events: RecordedEvents) -> None:
        self.request_id = request_id
        self.token = token
        self._events = events
        self._deltas: list[Any] = []
        self._outcome: Outcome | None = None
        self._changed = threading.Condition()

    def deliver(self, batch: Sequence[Event]) -> None:
        with self._changed:
            for event in batch:
                if isinstance(event, Delta):
                    self._deltas.append(event.value)
                elif isinstance(event, (Result, Failed)):
                    assert self._outcome is None, "a call has one outcome"
                    self._outcome = _as_sent(event, self._deltas)
            self._changed.notify_all()

    def cancel(self) -> None:
        """Cancel the call, as its caller would."""
        self.token.cancel("caller")

    @property
    def is_done(self) -> bool:
        return self._outcome is not None

    def wait_until_started(self, timeout_s: float = 30.0) -> None:
        """Wait until the handler is about to be called; `TimeoutError` when it is not."""
        self._events.wait_for(
            lambda event: isinstance(event, Started) and event.request_id == self.request_id,
            timeout_s,
        )

    @property
    def events(self) -> list[Telemetry]:
        """Telemetry so far."""
        return self._events.of(self.request_id)

    def wait(self, timeout_s: float = 30.0) -> TesterResult:
        """Wait for the end.

        Raises:
            TimeoutError: It took longer, in real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._outcome is not None, timeout_s):
                raise TimeoutError(f"call {self.request_id!r} has not ended within {timeout_s} s")
        assert self._outcome is not None
        return TesterResult(
            request_id=self.request_id,
            outcome=self._outcome,
            deltas=list(self._deltas),
            events=list(self.events),
        )

    def iterate(self, timeout_s: float = 30.0) -> Iterator[Any]:
        """Yield the items as they come; the failure of the call is raised at the end.

        Raises:
            TimeoutError: The next item took longer, in real seconds.
        """
        seen = 0
        while True:
            with self._changed:
                has_more = self._changed.wait_for(
                    lambda: len(self._deltas) > seen or self.is_done,  # noqa: B023
                    timeout_s,
                )
                if not has_more:
                    raise TimeoutError(f"{self.request_id!r} yielded nothing for {timeout_s} s")
                items = self._deltas[seen:]
            yield from items
            seen += len(items)
            if not items:
                break
        _ = self.wait().value


def _error_of(failure: Failure) -> Exception:
    """Return an error like the one that failed the call; the original stayed with the engine."""
    cls = getattr(errors, failure.exception, None) or getattr(builtins, failure.exception, None)
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        cls = WorkerError
    error = cls.__new__(cls)  # not its constructor, which may want more than a message
    error.args = (failure.message,)
    for name in ("code", "path", "retry_after_s"):
        value = getattr(failure, name)
        if value and isinstance(error, WorkerError):
            setattr(error, name, value)
    if failure.detail:
        error.add_note(failure.detail)
    return error


def _as_sent(outcome: Outcome, deltas: list[Any]) -> Outcome:
    """Fail what a server would fail, which sends values where this one hands over objects."""
    if isinstance(outcome, Result):
        try:
            encode([*deltas, outcome.value], "json", 0)
        except TypeError as error:
            failure = errors.classify(error, detail=f"TypeError: {error}")
            return Failed(request_id=outcome.request_id, failure=failure, timings=outcome.timings)
    return outcome
