"""Models that are on this machine already."""

from __future__ import annotations

import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ModelResolutionError
from gen_worker.events import Emitted
from gen_worker.ports import NOBODY
from gen_worker.runtime.local.content_store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.store import ContentStore
    from gen_worker.ports import Events, ModelRequest
    from gen_worker.spec import Binding

__all__ = ["LocalModel", "LocalModels"]


class LocalModel(NamedTuple):
    """A model that is here: what `prepare` gives and `lease` takes."""

    ref: str
    path: str
    """Directory of its files."""
    annotation: Any
    """Type of the parameter that receives it."""


class LocalModels:
    """The `Models` port of a laptop.

    A hub ref that a digest pins is looked up in the content store. The parameter receives its
    directory; a type with `from_pretrained` is loaded from it, once per process.
    """

    def __init__(
        self, events: Events, *, cas_dir: str | None = None, offline: bool = False
    ) -> None:
        self._events = events
        self._cas_dir = cas_dir
        self._offline = offline
        self._announced: set[str] = set()
        self._loaded: dict[tuple[str, int], tuple[object, Any]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LocalModels loaded={len(self._loaded)}>"

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> LocalModel:
        """Find the model's directory; see `gen_worker.ports.Models`."""
        from gen_worker.models.choice import ModelChoice

        chosen = ModelChoice.from_record(choice)
        ref = str(chosen.target)
        facts = {"provider": chosen.provider, "ref": ref}
        is_new = ref not in self._announced
        if is_new:
            self._tell("model_fetch.started", facts)
        path = self._find(chosen, ref)
        if is_new:
            self._announced.add(ref)
            self._tell("model_fetch.completed", {**facts, "local_dir": path})
        if chosen.subfolder:
            from gen_worker.paths import safe_join

            path = safe_join(path, chosen.subfolder)
        return LocalModel(ref, path, annotation)

    def lease(
        self, prepared: object, *, device: str, request: ModelRequest = NOBODY
    ) -> AbstractAsyncContextManager[object]:
        """Give the model to a call; entering and leaving never wait for an event loop."""
        assert isinstance(prepared, LocalModel), "the engine passes on what prepare returned"
        return _Lease(self, prepared)

    async def escalate(
        self, prepared: list[object], error: BaseException, attempt: int = 1
    ) -> bool:
        return False

    def load(self, model: LocalModel) -> object:
        """Return what the parameter receives."""
        from_pretrained = getattr(model.annotation, "from_pretrained", None)
        if not callable(from_pretrained):
            return model.path
        # An annotation need not be hashable; kept beside the model, it keeps its identity.
        key = (model.path, id(model.annotation))
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = (from_pretrained(model.path), model.annotation)
            return self._loaded[key][0]

    @cached_property
    def _store(self) -> ContentStore:
        return open_store(self._cas_dir)

    def _find(self, chosen: ModelChoice, ref: str) -> str:
        digest = getattr(chosen.target, "digest", "")
        path = self._store.snapshot(digest) if digest else None
        if path is not None:
            return path
        raise ModelResolutionError(
            f"model {ref!r} is not on this machine: {self._remedy(chosen.provider, digest)}",
            provider=chosen.provider,
            phase="resolve",
        )

    def _remedy(self, provider: str, digest: str) -> str:
        if provider != "tensorhub":
            advice = f"this version cannot download from {provider!r}"
        elif digest:
            advice = f"warm the cache through the platform, which keeps it in {self._store.root!r}"
        else:
            advice = (
                "a tag cannot be resolved here, so pin it as 'owner/repo@blake3:<hex>' "
                "and warm the cache through the platform"
            )
        return f"{advice}; the cache must be warmed without --offline" if self._offline else advice

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        self._events.emit(Emitted(request_id="", type=kind, payload=facts, at=time.time()))


class _Lease:
    """What `lease` returns; a loaded model stays for the next call."""

    def __init__(self, models: LocalModels, model: LocalModel) -> None:
        self._models = models
        self._model = model

    async def __aenter__(self) -> object:
        return self._models.load(self._model)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None
