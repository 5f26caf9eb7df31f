"""A request the hub does not grant, as the answer its client gets."""

from __future__ import annotations

from typing import Any

from gen_worker.errors import WorkerError

__all__ = ["Refusal"]


class Refusal(WorkerError):
    """Ends a request with a 4xx or 5xx; `code` is for programs, the message for people."""

    def __init__(
        self, status: int, code: str, message: str, *, allow: str = "", **more: Any
    ) -> None:
        """Refuse.

        Args:
            status: Of the answer.
            code: One word.
            message: One sentence.
            allow: The methods that would not have been refused, with a 405.
            more: Further keys of the answer.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.allow = allow
        self.more = more

    def to_dict(self) -> dict[str, Any]:
        return {"error": self.code, "message": str(self), **self.more}
