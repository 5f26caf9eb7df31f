"""A whole scheduler on one event loop: opened, served, closed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gen_worker.models.settings import load_model_settings
from gen_worker.runtime.scheduler.addresses import url_towards, worker_address
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.dispatcher import DispatchOptions
from gen_worker.runtime.scheduler.gateway import GatewayOptions
from gen_worker.runtime.scheduler.opening import (
    OWNER,
    Parts,
    Surroundings,
    open_parts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.settings import ModelSettings
    from gen_worker.runtime.scheduler.gateway import Passage
    from gen_worker.runtime.scheduler.settings import SchedulerSettings
    from gen_worker.runtime.scheduler.webhooks import WebhookOptions

__all__ = ["Scheduler"]


class Scheduler:
    """One scheduler, on the loop that opened it. All that it was told outlives it.

    Workers go on while there is none, and so do the requests that they have.
    """

    def __init__(self, settings: SchedulerSettings, parts: Parts, stack: AsyncExitStack) -> None:
        """Use `Scheduler.open`.

        Args:
            settings: As they were given.
            parts: Open.
            stack: Closes them.
        """
        self.settings = settings
        self.ledger = parts.ledger
        self.releases = parts.releases
        self.requests = parts.requests
        self.dispatcher = parts.dispatcher
        self.gateway = parts.gateway
        self.worker_tokens = parts.worker_tokens
        self.url = url_towards(settings, parts.listener.getsockname()[:2])
        """Of the HTTP API."""
        self.worker_address = worker_address(settings, parts.gateway)
        """Where workers connect to."""
        self.token_file = parts.token_file
        """With a token that may do everything; empty where none is asked for, or another given."""
        self._serving = parts.serving
        self._stack = stack
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        settings: SchedulerSettings,
        *,
        models: ModelSettings | None = None,
        dispatch: DispatchOptions | None = None,
        gateway: GatewayOptions | None = None,
        webhooks: WebhookOptions | None = None,
        passage: Passage | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Scheduler:
        """Open the scheduler of a folder: clients and workers are served when this returns.

        Args:
            settings: Where and how.
            models: The hub, and tokens for it; by default those of the environment.
            dispatch: How requests are given to workers, where the settings say nothing.
            gateway: Limits of the server that workers connect to.
            webhooks: Where they may lead; by default to private addresses, too, where callers need
                no tokens.
            passage: What goes wrong between workers and the gateway, in tests.
            clock: Unix time; by default one that does not jump.

        Raises:
            LedgerInUseError: Another process has the folder; it names its id.
            SettingsError: What the settings say is not possible.
            ListenError: An address is taken, or not this machine's.
            FatalError: The folder cannot be used.
            ResourceError: There is no room on its disk.
        """
        around = Surroundings(
            models=models or load_model_settings(),
            dispatch=dispatch or DispatchOptions(),
            gateway=gateway or GatewayOptions(),
            webhooks=webhooks,
            passage=passage,
            clock=clock or steady_clock(),
        )
        async with AsyncExitStack() as stack:
            parts = await open_parts(settings, around, stack)
            return cls(settings, parts, stack.pop_all())

    async def close(self) -> None:
        """Answer what is under way, then stop, and write what was given.

        Workers are told that the scheduler stops: they keep what they have, and come back.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._stack.aclose())
        await asyncio.shield(self._closing)

    async def ended(self) -> None:
        """Wait until clients are served no longer."""
        await asyncio.wait((self._serving,))

    def __repr__(self) -> str:
        return f"<Scheduler on {self.url} of {self.settings.folder!r}>"

    def issue_worker_token(self, release_id: str, worker_id: str = "", owner: str = OWNER) -> str:
        """Return what a worker of a release connects with. Blocks for a moment the first time.

        Raises:
            ValidationError: The release or a name cannot be one.
        """
        return self.worker_tokens.issue(release_id=release_id, owner=owner, worker_id=worker_id)
