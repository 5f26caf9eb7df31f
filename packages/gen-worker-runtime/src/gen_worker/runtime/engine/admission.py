"""Which calls are let in, and which are here."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gen_worker.errors import DuplicateRequestError, OverloadedError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.pipeline import Holder

__all__ = ["Admission"]


class Admission:
    """The calls of one engine, from the moment they are let in until they are answered."""

    def __init__(self, max_queue: int) -> None:
        self.calls: dict[str, RunningCall] = {}
        self._max_queue = max_queue
        self.begun: set[RunningCall] = set()
        """Those whose handler was called."""
        self._batches: set[Holder] = set()
        self._is_closed = False
        self._when_empty: Callable[[], object] | None = None
        self._rates: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Calls whose handler was called and that are not answered yet."""
        return len(self.begun)

    @property
    def queued(self) -> int:
        return max(0, len(self.calls) - len(self.begun))

    def close(self, when_empty: Callable[[], object]) -> None:
        """Let nobody in any more, and call `when_empty` once everything here has ended."""
        self._when_empty = when_empty
        self._is_closed = True
        self._look()

    def enter(self, call: RunningCall) -> None:
        """Let a call in.

        No lock: single operations on a dict are atomic, and this is on every call's way.

        Raises:
            RetryableError: The engine is closing.
            DuplicateRequestError: A call of this id is here.
            OverloadedError: Too many calls wait, or too many of this invoker run.
        """
        if len(self.calls) >= self._max_queue and self.queued >= self._max_queue:
            raise OverloadedError()
        if self.calls.setdefault(call.request_id, call) is not call:
            raise DuplicateRequestError(f"request {call.request_id!r} is running already")
        # Looked at afterwards: whoever closes either finds the call here or was seen by it.
        if self._is_closed:
            self.answer(call)
            raise RetryableError("worker busy")
        if call.plan.rate_limit is not None:
            try:
                self._count_invoker(call, call.plan.rate_limit)
            except OverloadedError:
                self.answer(call)
                raise

    def _count_invoker(self, call: RunningCall, limit: int) -> None:
        key = _invoker(call)
        with self._lock:
            running = self._rates.get(key, 0)
            if running >= limit:
                raise OverloadedError(
                    f"{call.plan.spec.name!r} runs {limit} calls of one invoker at a time: "
                    "wait for one of them to end"
                )
            self._rates[key] = running + 1

    def answer(self, call: RunningCall) -> None:
        """Forget a call that has its outcome, so that its id may be used again."""
        self.begun.discard(call)
        if self.calls.get(call.request_id) is call:
            del self.calls[call.request_id]
        if self._when_empty is not None:
            self._look()

    def begin_batch(self, batch: Holder) -> None:
        """Note a batch, which may outlast the calls that left it."""
        self._batches.add(batch)

    def end_batch(self, batch: Holder) -> None:
        """Forget a batch that has ended, or is stuck as a call may be."""
        self._batches.discard(batch)
        if self._when_empty is not None:
            self._look()

    def _look(self) -> None:
        if self._when_empty is not None and not self.calls and not self._batches:
            when_empty, self._when_empty = self._when_empty, None
            when_empty()

    def leave(self, call: RunningCall) -> None:
        """Give back an invoker's share: when the handler ends, even if it was reported as stuck."""
        key = _invoker(call)
        with self._lock:
            left = self._rates[key] - 1
            if left:
                self._rates[key] = left
            else:
                del self._rates[key]


def _invoker(call: RunningCall) -> tuple[str, str]:
    """Return whose share a call takes; callers without a name share one."""
    invocation = call.invocation
    return call.plan.spec.name, invocation.invoker_id or invocation.owner or ""
