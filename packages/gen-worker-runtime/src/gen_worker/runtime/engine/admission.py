"""Which calls are let in, and which are here."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gen_worker.errors import DuplicateRequestError, OverloadedError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine.calls import RunningCall

__all__ = ["Admission"]


class Admission:
    """The calls of one engine, from the moment they are let in until they are answered."""

    def __init__(self, max_queue: int) -> None:
        self.calls: dict[str, RunningCall] = {}
        self._max_queue = max_queue
        self._begun: set[RunningCall] = set()
        self._is_closed = False
        self._when_empty: Callable[[], object] | None = None
        self._rates: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Calls whose handler was called and that are not answered yet."""
        return len(self._begun)

    @property
    def queued(self) -> int:
        return max(0, len(self.calls) - len(self._begun))

    def close(self, when_empty: Callable[[], object]) -> None:
        """Let nobody in any more, and call `when_empty` once everybody is answered."""
        with self._lock:
            self._is_closed = True
            self._when_empty = when_empty
            is_empty = not self.calls
        if is_empty:
            when_empty()

    def enter(self, call: RunningCall) -> None:
        """Let a call in.

        Raises:
            RetryableError: The engine is closing.
            DuplicateRequestError: A call of this id is here.
            OverloadedError: Too many calls wait, or too many of this invoker run.
        """
        with self._lock:
            if self._is_closed:
                raise RetryableError("worker busy")
            if call.request_id in self.calls:
                raise DuplicateRequestError(f"request {call.request_id!r} is running already")
            if len(self.calls) >= self._max_queue and self.queued >= self._max_queue:
                raise OverloadedError()
            if call.plan.spec.rate_limit_per_invoker is not None:
                self._count_invoker(call, call.plan.spec.rate_limit_per_invoker)
            self.calls[call.request_id] = call

    def _count_invoker(self, call: RunningCall, limit: int) -> None:
        key = _invoker(call)
        running = self._rates.get(key, 0)
        if running >= limit:
            raise OverloadedError(
                f"{call.plan.spec.name!r} runs {limit} calls of one invoker at a time: "
                "wait for one of them to end"
            )
        self._rates[key] = running + 1

    def begin(self, call: RunningCall) -> None:
        """Note that the handler is called; out of memory calls it again."""
        call.has_begun = True
        self._begun.add(call)  # atomic, unlike counting

    def answer(self, call: RunningCall) -> None:
        """Forget a call that has its outcome, so that its id may be used again."""
        self._begun.discard(call)
        with self._lock:
            if self.calls.get(call.request_id) is call:
                del self.calls[call.request_id]
            when_empty = None if self.calls else self._when_empty
        if when_empty is not None:
            when_empty()

    def leave(self, call: RunningCall) -> None:
        """Give back the invoker's share; for a stuck handler when it ends, not when it is told."""
        if call.plan.spec.rate_limit_per_invoker is None:
            return
        with self._lock:
            key = _invoker(call)
            left = self._rates[key] - 1
            if left:
                self._rates[key] = left
            else:
                del self._rates[key]


def _invoker(call: RunningCall) -> tuple[str, str]:
    """Return whose share a call takes; callers without a name share one."""
    invocation = call.invocation
    return call.plan.spec.name, invocation.invoker_id or invocation.owner or ""
