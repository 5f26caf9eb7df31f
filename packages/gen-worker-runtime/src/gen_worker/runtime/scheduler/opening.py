"""The parts of a scheduler, opened in their order; each is ended by the stack that is given."""

from __future__ import annotations

import asyncio
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.hub.local.hub import LocalHub
from gen_worker.models.hub.local.rooms import HubOptions
from gen_worker.models.store.private import read_or_write_private
from gen_worker.runtime.http.app import HttpApp
from gen_worker.runtime.http.listener import open_listener
from gen_worker.runtime.http.options import HttpOptions
from gen_worker.runtime.http.server import HttpServer
from gen_worker.runtime.scheduler.addresses import url_towards, worker_address
from gen_worker.runtime.scheduler.api import SchedulerBackend, SchedulerParts
from gen_worker.runtime.scheduler.api.bodies import answer_of
from gen_worker.runtime.scheduler.catalog import Catalog
from gen_worker.runtime.scheduler.dispatcher import Dispatcher
from gen_worker.runtime.scheduler.files import FileSweep, JobAuthority, Passes, SchedulerFiles
from gen_worker.runtime.scheduler.front import Front
from gen_worker.runtime.scheduler.gateway import Gateway
from gen_worker.runtime.scheduler.hub_rights import HubRights
from gen_worker.runtime.scheduler.intake import Intake
from gen_worker.runtime.scheduler.ledger import Ledger, LedgerOptions
from gen_worker.runtime.scheduler.metrics import Figures, SchedulerMetrics
from gen_worker.runtime.scheduler.model_facts import ModelFacts
from gen_worker.runtime.scheduler.options import (
    certificate,
    dispatch_options,
    http_address,
    is_open,
    keeping,
    request_options,
    webhook_options,
    worker_token_ttl_s,
)
from gen_worker.runtime.scheduler.outfitting import Outfitter
from gen_worker.runtime.scheduler.releases.releases import Releases
from gen_worker.runtime.scheduler.requests import Requests
from gen_worker.runtime.scheduler.tokens import Tokens
from gen_worker.runtime.scheduler.webhooks import Webhooks, WebhookSecrets
from gen_worker.runtime.scheduler.webhooks.routes import WebhookRoutes
from gen_worker.runtime.scheduler.worker_tokens import WorkerTokens

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from gen_worker.models.settings import ModelSettings
    from gen_worker.runtime.scheduler.dispatcher import DispatchOptions
    from gen_worker.runtime.scheduler.gateway import GatewayOptions, Passage
    from gen_worker.runtime.scheduler.settings import SchedulerSettings
    from gen_worker.runtime.scheduler.webhooks import WebhookOptions

__all__ = [
    "OWNER",
    "ROOT_TOKEN_NAME",
    "Parts",
    "Surroundings",
    "open_parts",
]

ROOT_TOKEN_NAME = "token"
"""File in the scheduler's folder of a token that may do everything."""

OWNER = "local-dev"
"""Whose endpoints are meant where nobody is named."""

_GATEWAY_GRACE_S = 1.0
"""For streams of workers to end in order; they come back in any case."""


class Surroundings(NamedTuple):
    """What a scheduler is given besides its settings."""

    models: ModelSettings
    """The hub, and tokens for it."""
    dispatch: DispatchOptions
    gateway: GatewayOptions
    webhooks: WebhookOptions | None
    """None: to private addresses only where all callers are of this machine."""
    passage: Passage | None
    clock: Callable[[], float]
    """Unix time."""


class Parts(NamedTuple):
    """What a scheduler is made of, on one loop."""

    listener: socket.socket
    token_file: str
    """With a token that may do everything; empty where none is asked for, or another is given."""
    ledger: Ledger
    releases: Releases
    worker_tokens: WorkerTokens
    requests: Requests
    dispatcher: Dispatcher
    gateway: Gateway
    serving: asyncio.Task[None]


async def open_parts(
    settings: SchedulerSettings, around: Surroundings, stack: AsyncExitStack
) -> Parts:
    """Open a scheduler: clients and workers are served when this returns.

    Args:
        settings: Where and how.
        around: What else there is.
        stack: Ends what was opened, the last first, also when something cannot be opened.
    """
    opening = _Opening(settings, around, stack)
    records = await opening.records()
    files = await opening.files(records)
    core = await opening.core(records, files)
    serving = await opening.serve(records, files, core)
    return Parts(
        records.listener,
        opening.token_file,
        records.ledger,
        records.releases,
        records.worker_tokens,
        records.requests,
        core.dispatcher,
        core.gateway,
        serving,
    )


class _Records(NamedTuple):
    """What is on disk, and the address that makes this its only owner's."""

    ledger: Ledger
    listener: socket.socket
    releases: Releases
    tokens: Tokens
    worker_tokens: WorkerTokens
    requests: Requests


class _Files(NamedTuple):
    """Those of clients and workers."""

    store: LocalHub
    passes: Passes


class _Core(NamedTuple):
    """From a request that is taken in to the worker that runs it."""

    catalog: Catalog
    models: ModelFacts
    dispatcher: Dispatcher
    gateway: Gateway
    webhooks: Webhooks
    webhook_routes: WebhookRoutes
    metrics: SchedulerMetrics


class _Opening:
    """Opens one part after the other."""

    def __init__(
        self, settings: SchedulerSettings, around: Surroundings, stack: AsyncExitStack
    ) -> None:
        self._settings = settings
        self._around = around
        self._stack = stack
        self._address = http_address(settings)
        self._is_open = is_open(settings, self._address)
        """Whether whoever can connect may do everything."""
        self._dispatch = dispatch_options(settings, around.dispatch)
        self._credentials = certificate(settings)

    def _below(self, *names: str) -> str:
        return os.path.join(self._settings.folder, *names)

    async def records(self) -> _Records:
        """Open what is on disk, so that nobody else does, and then the address."""
        settings, clock = self._settings, self._around.clock
        ledger = await Ledger.open(
            self._below("scheduler"), LedgerOptions(keeping=keeping(settings)), clock=clock
        )
        self._stack.push_async_callback(ledger.close)
        listener = self._stack.enter_context(open_listener(self._address))
        releases = await Releases.open(self._below("releases"), ledger)
        self._stack.push_async_callback(releases.close)
        tokens = await Tokens.open(
            ledger,
            root_token=self._root_token(),
            worker_token=settings.worker_token,
            clock=clock,
        )
        requests = Requests(ledger, request_options(settings), clock=clock)
        worker_tokens = WorkerTokens(self._below("scheduler"), ttl_s=worker_token_ttl_s(settings))
        return _Records(ledger, listener, releases, tokens, worker_tokens, requests)

    @property
    def token_file(self) -> str:
        """With a token that may do everything; empty where it has no use."""
        is_needed = not self._is_open and not self._settings.token
        return self._below("scheduler", ROOT_TOKEN_NAME) if is_needed else ""

    def _root_token(self) -> str:
        """Return the token that may do everything; whoever reads the folder has one."""
        if not self.token_file:
            return self._settings.token
        new = secrets.token_urlsafe(32).encode()
        return read_or_write_private(self.token_file, lambda: new).decode()

    async def files(self, records: _Records) -> _Files:
        """Open the store of files, and begin to remove what is not needed any more."""
        settings, ledger = self._settings, records.ledger
        key_path = self._below("scheduler", "jobs.key")
        passes = Passes(read_or_write_private(key_path, lambda: secrets.token_bytes(32)))
        authority = JobAuthority(passes, records.requests.live, ledger.call)
        options = HubOptions(offers_grants=False)
        store = await asyncio.to_thread(
            partial(LocalHub, self._below("files"), options=options, authority=authority)
        )
        self._stack.push_async_callback(asyncio.to_thread, store.close)
        sweep = FileSweep(store, ledger, keep_uploads_s=keeping(settings).keep_s)
        task = asyncio.create_task(sweep.run(), name="gen-worker-file-sweep")
        self._stack.push_async_callback(_canceled, task)
        return _Files(store, passes)

    async def core(self, records: _Records, files: _Files) -> _Core:
        """Go on with the requests there are, and let workers in."""
        settings, around, stack = self._settings, self._around, self._stack
        requests, catalog = records.requests, Catalog(records.releases)
        models = ModelFacts(around.models, self._below("models"))
        stack.push_async_callback(models.close)
        rights = HubRights(around.models, OWNER)
        stack.push_async_callback(rights.close)
        bound = records.listener.getsockname()[:2]  # requests are given away while it is closed

        def files_url(worker_id: str) -> str:
            session = gateway.sessions.get(worker_id)
            return url_towards(settings, bound, "" if session is None else session.peer)

        dispatcher = Dispatcher(
            catalog,
            Outfitter(catalog, files.passes, files_url, models.describe, rights),
            records.ledger,
            options=self._dispatch,
            clock=around.clock,
        )
        requests.runner = dispatcher
        gateway = Gateway(
            settings.workers,
            dispatcher,
            verify=records.worker_tokens.verify,
            passage=around.passage,
            credentials=self._credentials,
            options=around.gateway,
        )
        secrets = await asyncio.to_thread(
            WebhookSecrets, self._below("scheduler", "webhook-secrets")
        )
        webhooks = self._webhooks(records, secrets)
        figures = Figures(
            records.ledger.statistics,
            gateway.statistics,
            webhooks.statistics,
            dispatcher.workers,
            around.clock,
        )
        metrics = SchedulerMetrics(requests, figures)
        routes = WebhookRoutes(webhooks, records.ledger, secrets)
        stack.push_async_callback(webhooks.close)
        stack.push_async_callback(requests.close)
        stack.push_async_callback(dispatcher.close)
        await requests.start()
        await webhooks.start()
        await dispatcher.start(requests)
        stack.push_async_callback(gateway.stop, _GATEWAY_GRACE_S)
        await gateway.start()
        return _Core(catalog, models, dispatcher, gateway, webhooks, routes, metrics)

    def _webhooks(self, records: _Records, secrets: WebhookSecrets) -> Webhooks:
        options = self._around.webhooks or webhook_options(self._settings, self._is_open)
        return Webhooks(
            records.ledger,
            records.requests,
            partial(answer_of, records.ledger),
            secrets,
            options,
            clock=self._around.clock,
        )

    async def serve(self, records: _Records, files: _Files, core: _Core) -> asyncio.Task[None]:
        """Answer clients; return what does it."""
        settings, stack = self._settings, self._stack
        backend = self._backend(records, files, core)
        stack.callback(backend.close)
        options = HttpOptions(
            credentials=None if self._is_open else records.tokens,
            is_loopback=self._address.is_private,
            max_body_bytes=settings.max_upload_bytes,
        )
        app = HttpApp(backend, options)
        stack.callback(app.close)
        front = Front(app, files.store.app, records.worker_tokens.jwks)
        server = HttpServer(front, records.listener, grace_s=settings.drain_s)
        is_ready = asyncio.Event()
        serving = asyncio.create_task(server.serve(is_ready.set), name="gen-worker-http")

        async def stop() -> None:
            app.drain()
            server.stop()
            await serving

        stack.push_async_callback(stop)
        waiting = asyncio.create_task(is_ready.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return serving

    def _backend(self, records: _Records, files: _Files, core: _Core) -> SchedulerBackend:
        settings, clock = self._settings, self._around.clock
        intake = Intake(
            records.requests,
            records.releases.tags,
            core.catalog,
            hub=core.models,
            costs=core.dispatcher.costs,
            pool=core.dispatcher.fleet,
            clock=clock,
            max_payload_bytes=settings.max_payload_bytes,
        )
        parts = SchedulerParts(
            ledger=records.ledger,
            requests=records.requests,
            intake=intake,
            catalog=core.catalog,
            releases=records.releases,
            workers=core.dispatcher,
            tokens=records.tokens,
            issue_worker_token=records.worker_tokens.issue,
            clock=clock,
        )
        return SchedulerBackend(
            parts,
            uploads=self._below("scheduler", "uploads"),
            metrics=core.metrics.exposition,
            files=SchedulerFiles(files.store),
            owner=OWNER,
            address=worker_address(settings, core.gateway),
            hub=self._around.models.hub_url,
            check_webhook=core.webhooks.check,
            routes=core.webhook_routes.table(),
        )


async def _canceled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
