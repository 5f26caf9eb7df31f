"""Events of a download, as orchestrators and people follow it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.models.fetch.progress import ProgressThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.fetch.values import FetchProgress
    from gen_worker.models.sources.values import Tell

__all__ = ["DownloadReport"]

_SOURCES = {"tensorhub": "tensorhub_cas", "hf": "huggingface", "civitai": "civitai"}


class DownloadReport:
    """Tells of one model's download: `worker.model.download.*`, or `model.download.*` in a call."""

    def __init__(
        self,
        choice: ModelChoice,
        tell: Tell | None,
        *,
        request_id: str = "",
        watch: Callable[[FetchProgress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is told before bytes have to move.

        Args:
            choice: The model.
            tell: Takes event names and payloads.
            request_id: Of the call that waits for it, if one does.
            watch: Gets every progress, unthrottled, on the downloading thread.
            clock: Seconds.
        """
        self._tell = tell
        self._watch = watch
        self._clock = clock
        self._throttle = ProgressThrottle(clock=clock)
        self._prefix = "model.download" if request_id else "worker.model.download"
        self.model_id = str(choice.target)
        self._base: dict[str, Any] = {
            "model_id": self.model_id,
            "provider": choice.provider,
            "source": _SOURCES.get(choice.provider, choice.provider),
        }
        if request_id:
            self._base["request_id"] = request_id

    def event(self, kind: str, **payload: Any) -> None:
        """Tell something else about the model."""
        if self._tell is not None:
            self._tell(kind, {"model_id": self.model_id, **payload})

    @contextmanager
    def running(self, total_bytes: int) -> Iterator[None]:
        """Tell that a download begins, and how it ends."""
        since = self._clock()
        self._say("started", estimated_total_bytes=total_bytes, estimated_eta_seconds=-1)
        try:
            yield
        except BaseException as error:
            name = type(error).__name__
            self._say("failed", error_type=name, duration_ms=self._since_ms(since))
            raise
        self._say("completed", bytes_total=total_bytes, duration_ms=self._since_ms(since))

    def progress(self, state: FetchProgress) -> None:
        """Take note of bytes; tell of them rarely."""
        if self._watch is not None:
            self._watch(state)
        due = self._throttle.update(state.bytes_done, state.bytes_total)
        if due is not None:
            self._say("progress", **due._asdict())

    def _say(self, what: str, **payload: Any) -> None:
        if self._tell is not None:
            self._tell(f"{self._prefix}.{what}", {**self._base, **payload})

    def _since_ms(self, since: float) -> int:
        return int((self._clock() - since) * 1000)
