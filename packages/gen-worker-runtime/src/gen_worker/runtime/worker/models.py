"""The models of a worker: fetched as its orchestrator describes them, kept by one library."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from gen_worker.errors import ValidationError
from gen_worker.models.snapshot import Snapshot, SnapshotFile, parse_blake3
from gen_worker.models.sources.values import Described
from gen_worker.ports import NOBODY
from gen_worker.runtime.library_models import LibraryModels
from gen_worker.runtime.worker.inventory import ModelPlaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.choice import LoraChoice, ModelChoice
    from gen_worker.models.library import ModelLibrary
    from gen_worker.models.residency import TierChange
    from gen_worker.models.sources import LocalModel
    from gen_worker.ports import Events, ModelRequest
    from gen_worker.runtime.wire import ResolvedRepo

    FindRepo = Callable[[str, str], ResolvedRepo | None]

__all__ = ["WorkerModels", "snapshot_of_repo"]

_log = logging.getLogger("gen_worker.worker")

_LOOK_S = 0.2


class WorkerModels(LibraryModels):
    """The `Models` port of a worker: models are what its orchestrator says they are."""

    def __init__(
        self,
        events: Events,
        find_repo: FindRepo,
        *,
        observe: Callable[[TierChange], None] | None = None,
        renewal_s: float = 30.0,
    ) -> None:
        """Prepare.

        Args:
            events: Where downloads, loads and steps are reported.
            find_repo: Says what a ref means to a request, by its id; with no id, to the worker.
            observe: Told of each model that came to another tier, in the thread that moved it.
            renewal_s: How long an orchestrator may take to send new URLs for those that expired.
        """
        super().__init__(events)
        self._find_repo = find_repo
        self._observe = observe
        self._renewal_s = renewal_s
        self._news = threading.Condition()

    def _open(self) -> ModelLibrary:
        from gen_worker.models.assembly import open_library

        return open_library(
            may_resolve=None,
            tell=self.tell,
            observe=self._observe,
            on_step=self.report_step,
            on_tokens=self.report_tokens,
            describe=self.describe,
        )

    async def fetch(self, choice: ModelChoice, request: ModelRequest = NOBODY) -> LocalModel:
        """Have a model's files here that no function is bound to."""
        return await self.library.fetch(choice, request)

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
