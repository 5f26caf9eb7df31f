"""Questions that are answered at once: asked again where that is safe, refusals as errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.client.addresses import query_of, request_path
from gen_worker.client.errors import CallError, UnreachableError, error_of_refusal
from gen_worker.client.limits import Limits
from gen_worker.client.retries import RetryPolicy
from gen_worker.client.steps import LostError, Question, ask, give, pause

if TYPE_CHECKING:
    from gen_worker.client.steps import Flow, Reply

__all__ = ["Host"]

_LAST_WORD = RetryPolicy(attempts=1)
_LAST_WORD_S = 2.0


class Host:
    """One host, as far as it is known."""

    def __init__(self, retry: RetryPolicy, silence_s: float) -> None:
        """Be patient with a host.

        Args:
            retry: How often to ask.
            silence_s: How long it may say nothing.
        """
        self.retry = retry
        self._silence_s = silence_s

    def limits(self, timeout_s: float | None = None, grace_s: float = 0.0) -> Limits:
        """Return how long an undertaking may take that begins now."""
        return Limits(self.retry, self._silence_s, timeout_s=timeout_s, grace_s=grace_s)

    def ask(
        self, question: Question, limits: Limits | None = None, request_id: str = ""
    ) -> Flow[Reply]:
        """Ask something that may be asked twice.

        Raises:
            CallError: The host refuses.
            UnreachableError: It does not answer.
        """
        limits = limits or self.limits()
        patience = limits.patience()
        while True:
            failure: CallError
            cause: Exception | None = None
            try:
                reply = yield from ask(question._replace(silence_s=limits.silence_s()))
            except LostError as error:
                limits.check()
                cause = error
                text = f"the host cannot be reached: {error}"
                failure = UnreachableError(text, request_id=request_id, retryable=True)
            else:
                if reply.is_ok:
                    return reply
                head = reply.head
                failure = error_of_refusal(reply.data, head.status, head.retry_after_s, request_id)
            pause_s = patience.pause_s(failure.retry_after_s) if failure.retryable else None
            if pause_s is None:
                raise failure from cause
            yield from pause(limits.allowed(pause_s, failure))

    def read(self, path: str, **parameters: Any) -> Flow[Any]:
        """Return the JSON at a path."""
        reply = yield from self.ask(Question("GET", query_of(path, parameters)))
        return reply.data

    def listed(self, path: str, key: str, **parameters: Any) -> Flow[list[dict[str, Any]]]:
        """Return the list that an answer has under a key."""
        data = yield from self.read(path, **parameters)
        return _records(data, key)

    def pages(self, path: str, key: str, parameters: dict[str, Any]) -> Flow[None]:
        """Give each record of a listing that comes in pages."""
        cursor: Any = None
        while True:
            data = yield from self.read(path, **{**parameters, "cursor": cursor})
            for record in _records(data, key):
                yield from give(record)
            cursor = data.get("next") if isinstance(data, dict) else None
            if not cursor:
                return

    def show(self, request_id: str) -> Flow[dict[str, Any]]:
        """Return what the host says of a request.

        Raises:
            UnknownRequestError: It has none.
        """
        question = Question("GET", request_path(request_id))
        reply = yield from self.ask(question, request_id=request_id)
        data = reply.data
        return data if isinstance(data, dict) else {}

    def cancel(self, request_id: str) -> Flow[bool]:
        """Cancel a request; False when it had ended.

        Raises:
            UnknownRequestError: There is none.
        """
        question = Question("DELETE", request_path(request_id))
        reply = yield from self.ask(question, request_id=request_id)
        data = reply.data
        return isinstance(data, dict) and data.get("canceled") is True

    def leave(self, request_id: str) -> Flow[None]:
        """Cancel a request that nobody waits for any more, as far as that can be done quickly."""
        question = Question("DELETE", request_path(request_id))
        try:
            yield from self.ask(question, Limits(_LAST_WORD, _LAST_WORD_S), request_id)
        except CallError:  # it has ended, or the host is gone: there is nobody left to tell
            return


def _records(data: Any, key: str) -> list[dict[str, Any]]:
    """Return a list of objects.

    Raises:
        CallError: The answer has none.
    """
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise CallError(f"the host's answer has no list of {key}: is this a gen-worker host?")
    return found
