"""A request the hub does not grant, as the answer its client gets."""

from __future__ import annotations

from typing import Any

from gen_worker.errors import WorkerError

__all__ = ["Refusal"]


class Refusal(WorkerError):
    """Ends a request with a 4xx or 5xx; `code` is for programs, the message for people."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.more = more

    def to_dict(self) -> dict[str, Any]:
        return {"error": self.code, "message": str(self), **self.more}
