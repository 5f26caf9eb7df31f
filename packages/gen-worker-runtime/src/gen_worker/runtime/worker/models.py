"""The models of a worker: fetched as its orchestrator describes them, kept by one library."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.events import Emitted, Progress
from gen_worker.models.snapshot import Snapshot, SnapshotFile, parse_blake3
from gen_worker.models.sources.values import Described
from gen_worker.ports import NOBODY
from gen_worker.runtime.worker.inventory import ModelPlaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from gen_worker.models.choice import LoraChoice, ModelChoice
    from gen_worker.models.library import ModelLibrary
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.prepared import PreparedModel
    from gen_worker.models.refs import Ref
    from gen_worker.models.residency import TierChange
    from gen_worker.models.sources import LocalModel
    from gen_worker.ports import Events, ModelRequest
    from gen_worker.runtime.wire import ResolvedRepo
    from gen_worker.spec import Binding

    FindRepo = Callable[[str, str], ResolvedRepo | None]

__all__ = ["WorkerModels", "snapshot_of_repo"]

_log = logging.getLogger("gen_worker.worker")

_LOOK_S = 0.2
_MAX_STEP_REPORTS = 20


class WorkerModels:
    """The `Models` port of a worker. Thread-safe; the library behind it is made at first use."""

    def __init__(
        self,
        events: Events,
        find_repo: FindRepo,
        *,
        observe: Callable[[TierChange], None] | None = None,
        renewal_s: float = 30.0,
        library: Callable[..., ModelLibrary] | None = None,
    ) -> None:
        """Prepare.

        Args:
            events: Where downloads, loads and steps are reported.
            find_repo: Says what a ref means to a request, by its id; with no id, to the worker.
            observe: Told of each model that came to another tier, in the thread that moved it.
            renewal_s: How long an orchestrator may take to send new URLs for those that expired.
            library: Makes the library, with the keywords of `open_library`.
        """
        self._events = events
        self._find_repo = find_repo
        self._observe = observe
        self._renewal_s = renewal_s
        self._open = library
        self._library: ModelLibrary | None = None
        self._lock = threading.Lock()
        self._news = threading.Condition()

    def __repr__(self) -> str:
        return f"<WorkerModels {self._library or 'unused'}>"

    @property
    def library(self) -> ModelLibrary:
        """What holds the models.

        Raises:
            SettingsError: A file with settings cannot be read.
        """
        with self._lock:
            if self._library is None:
                from gen_worker.models.assembly import open_library

                self._library = (self._open or open_library)(
                    may_resolve=None,
                    tell=self.tell,
                    observe=self._observe,
                    on_step=self._report_step,
                    describe=self.describe,
                )
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

    async def fetch(self, choice: ModelChoice, request: ModelRequest = NOBODY) -> LocalModel:
        """Have a model's files here that no function is bound to."""
        return await self.library.fetch(choice, request)

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

    def places(self) -> ModelPlaces:
        """Return which models are where."""
        if self._library is None:
            return ModelPlaces()
        found = self._library.residency.inventory()
        return ModelPlaces(*map(_refs, (found.vram_models, found.ram_models, found.disk_models)))

    def memory_bytes(self) -> dict[tuple[str, str], int]:
        """Return what models take of each device that has some, and what they may take."""
        if self._library is None:
            return {}
        residency = self._library.residency
        places = ("cpu", *residency.gpus())
        used = {(place, "used"): residency.used_bytes(place) for place in places}
        limits = {(place, "limit"): residency.limit_bytes(place) for place in places}
        return used | {key: limit for key, limit in limits.items() if limit is not None}

    def size_bytes(self, ref: str) -> int:
        """Return what a loaded model takes, as measured; 0 when it is not loaded."""
        if self._library is None or self._library.residency.tier(ref) not in ("vram", "ram"):
            return 0
        return self._library.residency.inventory().sizes_bytes.get(ref, 0)

    def has_room(self, ref: str, place: str) -> bool:
        """Tell whether a model fits beside those that are at a place; a guess from its files."""
        residency = self.library.residency
        limit, record = residency.limit_bytes(place), residency.find(ref)
        if limit is None or record is None:
            return True
        return residency.used_bytes(place) + record.size_bytes <= limit

    async def unload(self, ref: str) -> None:
        """Give a model's memory back; its files stay.

        Raises:
            ModelInUseError: A request uses it.
        """
        if self._library is not None:
            from gen_worker.context.local import off_loop

            await off_loop(self._library.residency.unload, ref)

    async def close(self) -> None:
        """Close connections; nothing is fetched any more."""
        if self._library is not None:
            from gen_worker.context.local import off_loop

            await off_loop(self._library.sources.close)

    # What refs mean.

    def describe(self, choice: ModelChoice | LoraChoice, request: ModelRequest) -> Described | None:
        """Return what the orchestrator says a model consists of; None when it says nothing."""
        ref = str(choice.target)
        repo = self._find_repo(request.request_id, ref)
        if repo is None:
            return None
        snapshot = snapshot_of_repo(repo)

        def renew() -> Snapshot | None:
            return self._renewed(ref, repo, request)

        return None if snapshot is None else Described(snapshot, renew)

    def news(self) -> None:
        """Say that refs were described anew."""
        with self._news:
            self._news.notify_all()

    def _renewed(self, ref: str, repo: ResolvedRepo, request: ModelRequest) -> Snapshot | None:
        """Ask the orchestrator for new URLs, and wait a while for its answer: a configuration."""
        self.tell("model.url_refresh", {"model_id": ref})
        ends_at = time.monotonic() + self._renewal_s
        with self._news:
            while time.monotonic() < ends_at:
                found = self._find_repo("", ref)
                if found is not None and found != repo:
                    return snapshot_of_repo(found)
                if request.token is not None and request.token.is_canceled:
                    return None
                self._news.wait(_LOOK_S)
        return None

    # What is reported.

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Report what happens to a model."""
        request_id = str(facts.get("request_id", ""))
        self._events.emit(Emitted(request_id=request_id, type=kind, payload=facts, at=time.time()))

    def _report_step(self, request: ModelRequest, done: int, total: int) -> None:
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


def _refs(names: Iterable[str]) -> tuple[str, ...]:
    """Return the refs behind the residency's names; a second object of a ref has a number."""
    return tuple(dict.fromkeys(name.partition("~")[0] for name in names))


def snapshot_of_repo(repo: ResolvedRepo) -> Snapshot | None:
    """Return a resolved repository as a snapshot; None for one that makes none."""
    files = tuple(
        SnapshotFile(
            path=file.path,
            size_bytes=file.size_bytes,
            blake3=parse_blake3(file.blake3),
            url=file.url,
        )
        for file in sorted(repo.files, key=lambda file: file.path)
        if file.path
    )
    try:
        return Snapshot(digest=parse_blake3(repo.snapshot_digest), files=files)
    except ValidationError as error:
        _log.warning("a resolved repository is not understood: %s", error)
        return None
