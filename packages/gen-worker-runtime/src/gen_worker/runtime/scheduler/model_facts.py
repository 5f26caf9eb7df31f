"""What models are, asked of their providers: for callers who choose one, and for workers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import WorkerError
from gen_worker.models.refs import RefError, TensorhubRef, parse_ref
from gen_worker.runtime.wire import ResolvedRepo, ResolvedRepoFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.models.hub import HubClient
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.refs import Ref
    from gen_worker.models.settings import ModelSettings
    from gen_worker.models.sources import Sources

__all__ = ["ModelFacts"]

_log = logging.getLogger("gen_worker.scheduler")

_FRESH_S = 60.0
"""For which a ref means what it meant: a tag that is moved has its effect a little later."""
_USABLE_S = 1800.0
"""For which the URLs of an answer are good enough when the hub is silent: half their time."""
_MAX_KNOWN = 1024


class _Known(NamedTuple):
    repo: ResolvedRepo
    at: float


class ModelFacts:
    """Asks the hub and the other providers. On the loop; what blocks is done in threads.

    Nothing is opened, and no library for it imported, before somebody names a model.
    """

    def __init__(
        self, settings: ModelSettings, folder: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare.

        Args:
            settings: Which hub, and tokens.
            folder: For the little that is kept of providers' answers.
            clock: Seconds that only ever grow.
        """
        self._settings = settings
        self._folder = folder
        self._clock = clock
        self._sources: asyncio.Future[Sources] | None = None
        self._client: HubClient | None = None
        self._connecting = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[_Known | None]] = {}

    async def close(self) -> None:
        """Let connections go."""
        if self._asking:
            await asyncio.wait(self._asking.values())
        if self._sources is not None:
            await asyncio.wait((self._sources,))
            if not _has_failed(self._sources):
                await asyncio.to_thread(self._sources.result().close)
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what is known of a caller's ref; see `gen_worker.models.overrides.HubLookup`."""
        if self._sources is None or _has_failed(self._sources):
            self._sources = asyncio.ensure_future(asyncio.to_thread(self._open))
        sources = await asyncio.shield(self._sources)
        return await sources.look_up(ref)

    async def describe(self, refs: Iterable[str]) -> Mapping[str, ResolvedRepo]:
        """Return the files of models of the hub, by ref.

        Left out is what the hub does not have or tell: a worker that has the model already can do
        without, and another says what is wrong.
        """
        if not self._settings.hub_url:
            return {}
        found = [(ref, await self._described(ref)) for ref in refs if _of_hub(ref) is not None]
        return {ref: known.repo for ref, known in found if known is not None}

    async def _described(self, ref: str) -> _Known | None:
        known = self._known.get(ref)
        age_s = self._clock() - known.at if known is not None else _USABLE_S
        if age_s < _FRESH_S:
            return known
        asking = self._asking.get(ref)
        if asking is None:
            asking = asyncio.create_task(self._ask(ref))
            self._asking[ref] = asking
            asking.add_done_callback(lambda _: self._asking.pop(ref, None))
        # Nobody waits for a hub that is silent as long as there is an answer.
        return known if age_s < _USABLE_S else await asyncio.shield(asking)

    async def _ask(self, ref: str) -> _Known | None:
        try:
            known = _Known(await asyncio.to_thread(self._resolve, ref), self._clock())
        except WorkerError as error:
            _log.warning("the hub does not say what %r is: %s", ref, error)
            return None
        self._known.pop(ref, None)
        self._known[ref] = known
        if len(self._known) > _MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        return known

    # -- in threads --------------------------------------------------------------------------------

    def _open(self) -> Sources:
        from gen_worker.models.assembly import open_store
        from gen_worker.models.sources import open_sources

        return open_sources(open_store(self._folder), self._settings, may_resolve=True)

    def _resolve(self, ref: str) -> ResolvedRepo:
        target = _of_hub(ref)
        assert target is not None, "others are not asked for"
        snapshot = self._connected().resolve(target, for_inference=True).snapshot
        files = (
            ResolvedRepoFile(
                path=file.path, size_bytes=file.size_bytes, blake3=file.blake3, url=file.url
            )
            for file in snapshot.files
        )
        return ResolvedRepo(snapshot_digest=snapshot.digest, files=tuple(files))

    def _connected(self) -> HubClient:
        from gen_worker.models.hub import HubClient

        with self._connecting:
            if self._client is None:
                self._client = HubClient(self._settings.hub_url, self._settings.hub_token)
            return self._client


def _has_failed(opening: asyncio.Future[Sources]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


@lru_cache(_MAX_KNOWN)
def _of_hub(ref: str) -> TensorhubRef | None:
    try:
        parsed = parse_ref(ref)
    except RefError:
        return None
    return parsed if isinstance(parsed, TensorhubRef) else None
