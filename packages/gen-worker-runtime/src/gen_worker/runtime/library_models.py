"""What the `Models` ports of all hosts share: one library, made at first use, and its reports."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from gen_worker.events import Emitted, Metric, Progress
from gen_worker.ports import NOBODY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from gen_worker.models.library import ModelLibrary
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.prepared import PreparedModel
    from gen_worker.models.refs import Ref
    from gen_worker.ports import Events, ModelRequest
    from gen_worker.spec import Binding

__all__ = ["LibraryModels"]

_MAX_STEP_REPORTS = 20  # of one pass: an image has some dozens of steps, a text thousands of tokens


class LibraryModels(ABC):
    """A `Models` port over a `ModelLibrary`. Thread-safe; most processes need no model at all."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._library: ModelLibrary | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._library or 'unused'}>"

    @abstractmethod
    def _open(self) -> ModelLibrary:
        """Make the library; called once."""

    @property
    def is_used(self) -> bool:
        """Whether anybody has asked for a model yet."""
        return self._library is not None

    @property
    def library(self) -> ModelLibrary:
        """What holds the models.

        Raises:
            SettingsError: A file with settings cannot be read.
        """
        with self._lock:
            if self._library is None:
                self._library = self._open()
            return self._library

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> PreparedModel:
        """Have the model's files here; see `gen_worker.ports.Models`."""
        return await self.library.prepare(binding, choice, annotation, request)

    def lease(
        self, prepared: object, *, device: str, request: ModelRequest = NOBODY
    ) -> AbstractAsyncContextManager[object]:
        """Give the model to a call; see `gen_worker.ports.Models`."""
        return self.library.lease(prepared, device=device, request=request)

    async def escalate(
        self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
    ) -> bool:
        """Make leased models need less memory; see `gen_worker.ports.Models`."""
        return await self.library.escalate(prepared, error, device=device, attempt=attempt)

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what is known of a caller's model; see `gen_worker.models.HubLookup`."""
        return await self.library.look_up(ref)

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Report what happens to a model."""
        request_id = str(facts.get("request_id", ""))
        self._events.emit(Emitted(request_id=request_id, type=kind, payload=facts, at=time.time()))

    def report_tokens(self, request: ModelRequest, count: int) -> None:
        """Report how many tokens a call's model generated."""
        self._events.emit(
            Metric(request_id=request.request_id, name="output_tokens", value=count, at=time.time())
        )

    def report_step(self, request: ModelRequest, done: int, total: int) -> None:
        """Report how far a call's pipeline has come, some twenty times at most."""
        if done * _MAX_STEP_REPORTS // total == (done - 1) * _MAX_STEP_REPORTS // total:
            return
        self._events.emit(
            Progress(
                request_id=request.request_id,
                progress=done / total,
                at=time.time(),
                stage=f"step {done} of {total}",
            )
        )
