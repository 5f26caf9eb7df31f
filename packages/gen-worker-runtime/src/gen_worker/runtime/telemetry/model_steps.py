"""The `Models` port of a host whose requests are reported on: it times what it passes on."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gen_worker.ports import NOBODY
from gen_worker.runtime.telemetry.payloads import (
    LoadCompleted,
    LoadFailed,
    LoadStarted,
    ModelMetrics,
    ResolveCompleted,
    ResolveFailed,
    ResolveStarted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from gen_worker.ports import ModelRequest, Models
    from gen_worker.runtime.telemetry.requests import Requests
    from gen_worker.runtime.telemetry.tracks import Track
    from gen_worker.spec import Binding

__all__ = ["ReportedModels"]

_LOAD_ENDS = ("model.load.completed", "model.load.failed")


class ReportedModels:
    """Tells of each model that a request waits for; a class's `setup` waits for itself."""

    def __init__(self, models: Models, requests: Requests) -> None:
        self._models: Any = models
        self._requests = requests
        self._loading: dict[str, list[_ReportedLease]] = {}
        """Leases that are being entered, by model."""
        self._disks: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        # What a port may offer besides, such as `look_up`, it offers here.
        return getattr(self._models, name)

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> object:
        track = self._requests.find(request.request_id) if request.request_id else None
        if track is None:
            return await self._models.prepare(binding, choice, annotation, request)
        requests, name, since = self._requests, track.function, perf_counter()
        parameter, now = request.parameter, requests.unix_time
        started = ResolveStarted(timestamp=now(), function_name=name, param_name=parameter)
        requests.begin(track, "model_resolve", started)
        track.downloads = track.copies = None
        try:
            prepared: object = await self._models.prepare(binding, choice, annotation, request)
        except BaseException as error:
            failed = ResolveFailed(
                timestamp=now(),
                function_name=name,
                param_name=parameter,
                error_type=type(error).__name__,
                duration_ms=_ms_since(since),
            )
            requests.end(track, "model_resolve", "failed", failed)
            raise
        finally:
            until = perf_counter()
            track.fetch_s = (track.fetch_s or 0.0) + until - since
            track.note_span("resolve", since, until, parameter=parameter)
        completed = ResolveCompleted(
            timestamp=now(),
            function_name=name,
            param_name=parameter,
            model_id=_name_of(prepared, choice),
            model_key=str(choice.get("key") or ""),
            duration_ms=_ms_since(since),
        )
        requests.end(track, "model_resolve", "completed", completed)
        self._note_model(track, parameter, prepared, choice)
        return prepared

    def lease(
        self, prepared: object, *, device: str, request: ModelRequest = NOBODY
    ) -> AbstractAsyncContextManager[object]:
        lease = self._models.lease(prepared, device=device, request=request)
        track = self._requests.find(request.request_id) if request.request_id else None
        if track is None:
            entered: AbstractAsyncContextManager[object] = lease
            return entered
        return _ReportedLease(self, lease, track, request.parameter, prepared, device)

    async def escalate(
        self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
    ) -> bool:
        taken: bool = await self._models.escalate(prepared, error, device=device, attempt=attempt)
        return taken

    def heard(self, event: str, payload: Mapping[str, Any]) -> None:
        """Take note of what the models' own events say about requests. Any thread."""
        if event == "model.download.completed":
            track = self._requests.find(str(payload.get("request_id", "")))
            if track is not None:
                if track.downloads is None:
                    track.downloads = []
                track.downloads.append((payload["bytes_total"], payload["duration_ms"]))
        elif event == "model.copy.completed":
            track = self._requests.find(str(payload.get("request_id", "")))
            if track is not None:
                if track.copies is None:
                    track.copies = []
                track.copies.append((payload["bytes_copied"], payload["duration_ms"]))
        elif event in _LOAD_ENDS:
            with self._lock:
                for lease in self._loading.get(payload["model_id"], ()):
                    lease.loaded_ms = (lease.loaded_ms or 0) + payload["duration_ms"]

    def _note_model(
        self, track: Track, parameter: str, prepared: object, choice: Mapping[str, Any]
    ) -> None:
        model = getattr(prepared, "model", None)
        downloads, copies = track.downloads or (), track.copies or ()
        metrics = ModelMetrics(
            model_id=_name_of(prepared, choice),
            flavor=str(choice.get("flavor") or ""),
            snapshot_digest=str(getattr(model, "digest", "")),
            bytes_downloaded=sum(size_bytes for size_bytes, _ in downloads),
            download_ms=sum(ms for _, ms in downloads),
            localized=getattr(model, "is_localized", False),
            nfs_to_local_copy_ms=sum(ms for _, ms in copies),
            bytes_copied=sum(size_bytes for size_bytes, _ in copies),
        )
        if track.models is None:
            track.models = {}
        track.models[parameter] = metrics

    def _enter(self, lease: _ReportedLease) -> None:
        with self._lock:
            self._loading.setdefault(lease.model_id, []).append(lease)

    def _leave(self, lease: _ReportedLease) -> None:
        with self._lock:
            waiting = self._loading[lease.model_id]
            waiting.remove(lease)
            if not waiting:
                del self._loading[lease.model_id]

    def _disk_of(self, path: str) -> tuple[str, str]:
        """Return file system and backend of a model's files."""
        known = self._disks.get(path)
        if known is None:
            from gen_worker.models.store.mounts import read_mountinfo, volume_of

            volume = volume_of(path, read_mountinfo())
            known = self._disks[path] = volume.fstype, volume.backend
        return known


class _ReportedLease:
    def __init__(
        self,
        models: ReportedModels,
        lease: AbstractAsyncContextManager[object],
        track: Track,
        parameter: str,
        prepared: object,
        device: str,
    ) -> None:
        self.model_id = _name_of(prepared, getattr(prepared, "choice", {}))
        self.loaded_ms: int | None = None
        self._models = models
        self._lease = lease
        self._track = track
        self._parameter = parameter
        self._prepared = prepared
        self._device = device

    async def __aenter__(self) -> object:
        models, track, since = self._models, self._track, perf_counter()
        requests, now = models._requests, models._requests.unix_time
        facts = {
            "function_name": track.function,
            "param_name": self._parameter,
            "model_id": self.model_id,
        }
        requests.occupy(track, self._device)
        requests.begin(track, "model_load", LoadStarted(timestamp=now(), **facts))
        models._enter(self)
        try:
            value = await self._lease.__aenter__()
        except BaseException as error:
            error_type = type(error).__name__
            failed = LoadFailed(
                timestamp=now(), **facts, error_type=error_type, duration_ms=_ms_since(since)
            )
            requests.end(track, "model_load", "failed", failed)
            raise
        finally:
            models._leave(self)
            until = perf_counter()
            track.load_s = (track.load_s or 0.0) + until - since
            track.note_span("load", since, until, model=self.model_id, parameter=self._parameter)
            if self.loaded_ms is not None:
                track.loaded_ms = (track.loaded_ms or 0) + self.loaded_ms
        completed = LoadCompleted(timestamp=now(), **facts, duration_ms=_ms_since(since))
        requests.end(track, "model_load", "completed", completed)
        self._note_state()
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lease.__aexit__(kind, error, traceback)

    def _note_state(self) -> None:
        """Note where the model was when the request came."""
        metrics = (self._track.models or {}).get(self._parameter)
        if metrics is None:  # of a class, which prepared it before this request came
            metrics = ModelMetrics(model_id=self.model_id)
            if self._track.models is None:
                self._track.models = {}
            self._track.models[self._parameter] = metrics
        if metrics.bytes_downloaded:
            metrics.cache_state = "cold_remote"
        elif self.loaded_ms is not None:
            metrics.cache_state = "warm_disk"
        else:
            metrics.cache_state = "hot_vram"
        model = getattr(self._prepared, "model", None)
        metrics.localized = getattr(model, "is_localized", False)
        if self.loaded_ms is not None and model is not None:
            metrics.bytes_read_disk = model.size_bytes
            metrics.disk_fstype, metrics.disk_backend = self._models._disk_of(model.root)


def _name_of(prepared: object, choice: Any) -> str:
    """Return what the other events call a model: its ref."""
    model = getattr(prepared, "model", None)
    ref = getattr(model, "ref", "")
    if not ref:
        ref = choice.get("ref", "") if hasattr(choice, "get") else getattr(choice, "ref", "")
    return str(ref)


def _ms_since(since: float) -> int:
    return round((perf_counter() - since) * 1000)
