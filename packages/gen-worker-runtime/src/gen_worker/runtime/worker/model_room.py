"""Everything a worker does about models besides its jobs, put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gen_worker.runtime.engine.deadlines import Timers
from gen_worker.runtime.wire import ModelReady
from gen_worker.runtime.worker.catalog import ModelBook, bound_models
from gen_worker.runtime.worker.commands import Commands
from gen_worker.runtime.worker.endpoint_config import news_of
from gen_worker.runtime.worker.fetching import Fetching
from gen_worker.runtime.worker.loading import Loading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Clock, Engine
    from gen_worker.runtime.wire import Availability as ReadyKind
    from gen_worker.runtime.worker.availability import Availability
    from gen_worker.runtime.worker.endpoint_config import EndpointState
    from gen_worker.runtime.worker.jobs import Jobs
    from gen_worker.runtime.worker.models import WorkerModels
    from gen_worker.runtime.worker.outbox import Outbox

__all__ = ["ModelRoom"]

_LANDED: tuple[ReadyKind, ...] = ("ready", "download_completed", "cached")


class ModelRoom:
    """Fetches, loads and unloads models, and says how they stand. For the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        jobs: Jobs,
        availability: Availability,
        models: WorkerModels,
        outbox: Outbox,
        state: Callable[[], EndpointState],
        *,
        devices: Sequence[str],
        parallel: int,
        config_grace_s: float,
        changed: Callable[[], None],
        hardware_unmet: Callable[[str, Failure], None],
        clock: Clock,
    ) -> None:
        """Look up what functions are bound to; nothing is fetched yet.

        Args:
            engine: Runs them.
            jobs: Those that may use a model.
            availability: Told of functions that wait for models.
            models: Keeps the models.
            outbox: Takes answers and signals.
            state: Says what the orchestrator configured.
            devices: Of the engine.
            parallel: Models fetched at a time.
            config_grace_s: How long an orchestrator may take to say what refs mean, before models
                are fetched without it.
            changed: Called when models or functions are elsewhere than before.
            hardware_unmet: Told of functions that this machine cannot run.
            clock: For timers.
        """
        self._functions = engine.functions
        self._availability = availability
        self._outbox = outbox
        self._state = state
        self._changed = changed
        self._grace_s = config_grace_s
        self._timers = Timers(clock)
        self._loop = asyncio.get_running_loop()
        self._began = False
        self._task: asyncio.Task[None] | None = None
        self.book = ModelBook(bound_models(self._functions.values(), state()))
        self.fetching = Fetching(
            models, self.book, state, parallel=parallel, landed=self._landed, settled=self._settled
        )
        self.loading = Loading(
            engine,
            models,
            self.book,
            jobs,
            devices=devices,
            hardware_unmet=hardware_unmet,
        )
        self.commands = Commands(outbox, self.fetching, self.loading, state, changed)
        self._gate()

    @property
    def is_settled(self) -> bool:
        """Whether every model that is waited for is here, or cannot be had."""
        return self.book.is_settled

    def begin(self) -> None:
        """Wait a while for the orchestrator to say what refs mean, then fetch without it."""
        if not self._began:
            self._began = True
            if self.book.is_settled:
                self._settled()
            else:
                self._timers.add(self._grace_s, self._on_loop(self._start_alone))

    def configure(self, before: EndpointState) -> None:
        """Take a new configuration.

        Args:
            before: What held until now; the new one holds already.
        """
        state = self._state()
        if (state.models, state.models_by_function) != (before.models, before.models_by_function):
            self.book.rebind(bound_models(self._functions.values(), state))
        self.book.require(state.required, state.allowed, news_of(before, state))
        self._gate()
        self.fetching.start()

    async def close(self) -> None:
        """Stop what is under way."""
        self._timers.close()
        await self.commands.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.fetching.close()

    # Inside.

    def _start_alone(self) -> None:
        if not self._state().is_configured:
            self.fetching.start()

    def _landed(self, ref: str) -> None:
        """Tell that a model is here, or that it cannot be had."""
        if self.book[ref] == "here":
            for kind in _LANDED:
                self._outbox.control(ModelReady(model_id=ref, kind=kind), replaces=(kind, ref))
        self._gate()
        self._changed()

    def _settled(self) -> None:
        self._gate()
        self._changed()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self.loading.start(self._order()))

    def _order(self) -> list[str]:
        return list(dict.fromkeys((*self._state().allowed, *self.book.bound)))

    def _gate(self) -> None:
        self._availability.await_models(self.book.loading_functions(), self.book.failed_functions())

    def _on_loop(self, callback: Callable[[], None]) -> Callable[[], None]:
        def post() -> None:
            self._loop.call_soon_threadsafe(callback)

        return post
