"""How far one flow has come; what blocking and async drivers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_worker.client.steps import Flow, Step

__all__ = ["Course"]


class Course:
    """Set `answer` or `error` to what came of a step, then ask for the next."""

    def __init__(self, flow: Flow[Any]) -> None:
        self.answer: Any = None
        self.error: Exception | None = None
        self.result: Any = None
        """Of the flow, once it has ended."""
        self._flow = flow

    def next(self) -> Step | None:
        """Return the next step; None when the flow has ended."""
        answer, error = self.answer, self.error
        self.answer = self.error = None
        try:
            return self._flow.send(answer) if error is None else self._flow.throw(error)
        except StopIteration as end:
            self.result = end.value
            return None

    def close(self) -> None:
        """End the flow wherever it is."""
        self._flow.close()
