"""Fetching models before anybody asks for them: in order, a few at a time, to the last one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gen_worker.cancel import CancelToken
from gen_worker.errors import ArtifactTransferError, CanceledError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.refs import parse_ref
from gen_worker.ports import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.prepared import PreparedModel
    from gen_worker.runtime.worker.catalog import ModelBook
    from gen_worker.runtime.worker.endpoint_config import EndpointState
    from gen_worker.runtime.worker.models import WorkerModels

__all__ = ["Fetching"]

_log = logging.getLogger("gen_worker.worker")

HUB = "tensorhub"
_PAUSES_S = (1.0, 5.0, 15.0)
"""Before a failed download that may succeed yet is tried again."""


class Fetching:
    """Has models here, each once. For the loop's thread; the downloads have their own."""

    def __init__(
        self,
        models: WorkerModels,
        book: ModelBook,
        state: Callable[[], EndpointState],
        *,
        parallel: int = 2,
        landed: Callable[[str], None],
        settled: Callable[[], None],
        pauses_s: Iterable[float] = _PAUSES_S,
    ) -> None:
        """Prepare.

        Args:
            models: What fetches.
            book: What is waited for.
            state: Says in which order, and what was described.
            parallel: Models at a time.
            landed: Called for each model that came here, or failed for good.
            settled: Called when nothing is waited for any more.
            pauses_s: Before each further attempt.
        """
        self._models = models
        self._book = book
        self._state = state
        self._parallel = parallel
        self._landed = landed
        self._settled = settled
        self._pauses_s = tuple(pauses_s)
        self._token = CancelToken()
        self._news = asyncio.Event()
        self._run: asyncio.Task[None] | None = None
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._kept: dict[str, list[PreparedModel]] = {}
        """What was fetched stays on the disk as long as this."""

    def start(self) -> None:
        """Fetch what waits; a run that is under way takes up what is new."""
        self._news.set()
        if self._run is None and not self._token.is_canceled:
            self._run = asyncio.get_running_loop().create_task(self._fetch_all())

    async def close(self) -> None:
        """Stop downloads; what is here of them is gone on with another time."""
        self._token.cancel("shutdown")
        tasks = [*self._flights.values(), *filter(None, (self._run,))]
        if tasks:
            await asyncio.wait(tasks)
        self._kept.clear()

    async def have(self, ref: str) -> None:
        """Have one model here, now.

        Raises:
            WorkerError: It cannot be had.
        """
        flight = self._flights.get(ref)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._fetch(ref))
            self._flights[ref] = flight
            flight.add_done_callback(lambda _: self._flights.pop(ref, None))
        await asyncio.shield(flight)

    async def _fetch_all(self) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._news.clear()
                waiting = self._book.waiting(self._state().allowed)
                for ref in waiting[: self._parallel - len(running)]:
                    self._book[ref] = "fetching"
                    running.add(asyncio.ensure_future(self._settle(ref)))
                if not running:
                    break
                news = asyncio.ensure_future(self._news.wait())
                await asyncio.wait([*running, news], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                running = {one for one in running if not one.done()}
        finally:
            self._run = None
        if not self._token.is_canceled:
            self._settled()

    async def _settle(self, ref: str) -> None:
        """Have a model here, or know that it cannot be had."""
        pauses_s = iter(self._pauses_s)
        while True:
            described = self._state().repos.get(ref)
            try:
                await self.have(ref)
                break
            except CanceledError:
                self._book[ref] = "left"
                return
            except Exception as error:
                if self._state().repos.get(ref) != described:
                    continue  # that was what it meant before
                may_retry = isinstance(error, ArtifactTransferError) and error.retryable
                pause_s = next(pauses_s, None)
                if pause_s is not None and may_retry and not self._token.is_canceled:
                    _log.info("model %r is fetched again in %g s: %s", ref, pause_s, error)
                    await asyncio.sleep(pause_s)
                    continue
                self._give_up(ref, error)
                break
        self._landed(ref)

    def _give_up(self, ref: str, error: Exception) -> None:
        state = self._state()
        is_hub = ref not in state.providers
        if is_hub and ref not in state.repos and ref not in state.required:
            # Nobody said what it means: the job that needs it will.
            _log.info("model %r is left to its jobs: %s", ref, error)
            self._book[ref] = "left"
        else:
            _log.warning("model %r cannot be had: %s", ref, error)
            self._book[ref] = "failed"

    async def _fetch(self, ref: str) -> None:
        request = ModelRequest(token=self._token)
        kept: list[PreparedModel] = []
        for model in self._book.bound.get(ref, ()):
            asked = request._replace(
                function=model.function, parameter=model.parameter, is_setup=model.is_setup
            )
            choice = model.choice.to_dict()
            kept.append(await self._models.prepare(model.binding, choice, model.annotation, asked))
        if not kept:
            provider = self._state().providers.get(ref, HUB)
            await self._models.fetch(ModelChoice.of(parse_ref(ref, provider)), request)
        self._kept[ref] = kept
        self._book[ref] = "here"
