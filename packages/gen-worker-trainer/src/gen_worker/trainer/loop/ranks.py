"""How a process behaves that is not the first of its run: it is heard by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.trainer.protocols import TrainingReporter

__all__ = ["Unheard"]


class Unheard:
    """Asks a reporter whether to stop, and tells it nothing."""

    def __init__(self, reporter: TrainingReporter) -> None:
        self._reporter = reporter

    def started(self, *, request_id: str) -> None: ...
    def metric(self, *, name: str, value: float, step: int) -> None: ...
    def checkpoint(self, *, path: str, step: int) -> None: ...
    def sample(self, *, path: str, step: int) -> None: ...
    def completed(self, *, step: int, final_checkpoint: str | None) -> None: ...
    def failed(self, *, step: int, error: str) -> None: ...

    def is_canceled(self) -> bool:
        return self._reporter.is_canceled()

    @property
    def cancel_reason(self) -> str | None:
        reason: str | None = getattr(self._reporter, "cancel_reason", None)
        return reason
