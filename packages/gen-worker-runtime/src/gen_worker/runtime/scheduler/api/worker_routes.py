"""Workers and what they have, what is wanted of releases, and the tokens workers connect with."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gen_worker.models.hub.local.asgi import Answer, read_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import ADMIN, READ, READ_OR_DEPLOY, WORKER
from gen_worker.runtime.http.openapi import operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.scheduler.api.access import owner_to_change, see_everything
from gen_worker.runtime.scheduler.api.values import (
    SCHEMAS,
    DemandList,
    DemandRow,
    Draining,
    ModelList,
    NewWorker,
    WorkerDrain,
    WorkerList,
    WorkerRow,
    WorkerTicket,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.runtime.http.table import HttpCall
    from gen_worker.runtime.scheduler.api.shelf import Shelf
    from gen_worker.runtime.scheduler.fleet import ModelView, WorkerView
    from gen_worker.runtime.scheduler.releases import ReleaseRecord
    from gen_worker.runtime.scheduler.requests import Requests

__all__ = ["IssueWorkerToken", "WorkerRoutes", "Workers"]

_MAX_BODY_BYTES = 64 * 1024


class Workers(Protocol):
    """The workers of a scheduler: the dispatcher. On the loop."""

    def workers(self) -> Sequence[WorkerView]: ...
    def models(self) -> Sequence[ModelView]: ...
    def waits_for(self, queue: str) -> str:
        """Return why the first request of a queue waits, in words; empty when it does not."""
        ...

    async def drain(self, worker_id: str, deadline_s: float = 0.0, reason: str = "") -> bool:
        """Have a worker finish what it has and leave; False when there is none of this id."""
        ...


class IssueWorkerToken(Protocol):
    """Signs what a worker connects with. Blocking: called in a thread."""

    def __call__(
        self, *, release_id: str, owner: str, worker_id: str, ttl_s: float | None
    ) -> str: ...


class _Wanted(NamedTuple):
    """What is wanted of releases, by their ids."""

    waiting: Counter[str]
    running: Counter[str]
    oldest: dict[str, float]


class WorkerRoutes:
    """`/v1/workers`, `/v1/models`, `/v1/demand`."""

    def __init__(
        self,
        workers: Workers,
        requests: Requests,
        shelf: Shelf,
        issue: IssueWorkerToken,
        *,
        address: str,
        hub: str,
        clock: Callable[[], float],
    ) -> None:
        """Answer for workers.

        Args:
            workers: Them.
            requests: What they are wanted for.
            shelf: Finds releases.
            issue: Signs their tokens.
            address: Where they connect to.
            hub: URL of the model hub they use; empty where there is none.
            clock: Unix time, the ledger's own.
        """
        self._workers = workers
        self._requests = requests
        self._shelf = shelf
        self._issue = issue
        self._address = address
        self._hub = hub
        self._clock = clock

    def table(self) -> Iterator[HttpRoute]:
        for methods, path, needs, handler, described in (
            (
                "GET HEAD",
                "/v1/workers",
                READ,
                self.list,
                operation("list-workers", "workers", answer=schema_of(WorkerList)),
            ),
            (
                "POST",
                "/v1/workers/{id}/drain",
                ADMIN,
                self.drain,
                operation(
                    "drain-worker",
                    "have a worker finish what it has, and leave",
                    answer=schema_of(Draining),
                    body=schema_of(WorkerDrain),
                ),
            ),
            (
                "POST",
                "/v1/workers/tokens",
                WORKER,
                self.ticket,
                operation(
                    "issue-worker-token",
                    "what a worker of a release is started with",
                    "201",
                    answer=schema_of(WorkerTicket),
                    body=schema_of(NewWorker),
                ),
            ),
            (
                "GET HEAD",
                "/v1/models",
                READ,
                self.models,
                operation("list-models", "which models are where", answer=schema_of(ModelList)),
            ),
            (
                "GET HEAD",
                "/v1/demand",
                READ_OR_DEPLOY,
                self.demand,
                operation(
                    "show-demand", "what is wanted of each release", answer=schema_of(DemandList)
                ),
            ),
        ):
            yield HttpRoute(methods, path, needs, handler, True, described, SCHEMAS)

    async def list(self, call: HttpCall) -> Answer:
        see_everything(call.caller)
        known = {one.release_id: one for one in await self._shelf.releases()}
        rows = [_row(view, known.get(view.release_id)) for view in self._workers.workers()]
        return Answer(WorkerList(workers=rows))

    async def models(self, call: HttpCall) -> Answer:
        see_everything(call.caller)
        return Answer(ModelList(models=tuple(self._workers.models())))

    async def drain(self, call: HttpCall) -> Answer:
        see_everything(call.caller)
        await read_body(call, _MAX_BODY_BYTES)
        asked = call.read(WorkerDrain)
        worker_id = call.params["id"]
        if not await self._workers.drain(worker_id, asked.deadline_ms / 1e3, asked.reason):
            raise Refusal(404, "unknown_worker", f"there is no worker {worker_id[:130]!r} here")
        return Answer(Draining(worker_id=worker_id, draining=True))

    async def demand(self, call: HttpCall) -> Answer:
        see_everything(call.caller)
        tags = await self._shelf.tags()
        wanted = self._wanted()
        workers = Counter(view.release_id for view in self._workers.workers())
        now = self._clock()
        rows = []
        for one in await self._shelf.releases():
            name = one.release_id
            found = tags.get((one.owner, one.endpoint, name), ())
            if not (found or wanted.waiting[name] or wanted.running[name] or workers[name]):
                continue
            came = wanted.oldest.get(name)
            rows.append(
                DemandRow(
                    owner=one.owner,
                    endpoint=one.endpoint,
                    release_id=name,
                    environment=one.environment,
                    tags=found,
                    waiting=wanted.waiting[name],
                    running=wanted.running[name],
                    oldest_wait_s=None if came is None else max(now - came, 0.0),
                    workers=workers[name],
                )
            )
        return Answer(DemandList(releases=rows))

    def _wanted(self) -> _Wanted:
        requests = self._requests
        waiting: Counter[str] = Counter()
        oldest: dict[str, float] = {}
        for queue, count in requests.queues().items():
            first, came = requests.first(queue), requests.oldest(queue)
            if first is None:
                continue
            release_id = first.record.release_id
            waiting[release_id] += count
            if came is not None:
                oldest[release_id] = min(came, oldest.get(release_id, came))
        running = Counter(live.record.release_id for live in requests.running())
        return _Wanted(waiting, running, oldest)

    async def ticket(self, call: HttpCall) -> Answer:
        await read_body(call, _MAX_BODY_BYTES)
        asked = call.read(NewWorker)
        owner = owner_to_change(call.caller, asked.owner, self._shelf.default_owner)
        release = await self._shelf.find(owner, asked.endpoint, asked.release_id, asked.tag)
        stored = await self._shelf.stored(release.release_id)
        worker_id = asked.worker_id or f"worker-{os.urandom(6).hex()}"
        token = await asyncio.to_thread(
            self._issue,
            release_id=release.release_id,
            owner=release.owner,
            worker_id=worker_id,
            ttl_s=asked.ttl_s,
        )
        ticket = WorkerTicket(
            token=token,
            worker_id=worker_id,
            address=self._address,
            owner=release.owner,
            endpoint=release.endpoint,
            release_id=release.release_id,
            environment=release.environment,
            source=stored.source,
            lock=stored.lock,
            hub=self._hub,
        )
        return Answer(ticket, status=201)


def _row(view: WorkerView, release: ReleaseRecord | None) -> WorkerRow:
    fields: dict[str, Any] = msgspec.structs.asdict(view)
    worker_id = fields.pop("id")
    if release is not None:
        fields |= {"owner": release.owner, "endpoint": release.endpoint}
    return WorkerRow(worker_id=worker_id, **fields)
