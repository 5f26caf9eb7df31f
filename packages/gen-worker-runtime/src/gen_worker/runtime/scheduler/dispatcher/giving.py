"""From a decision to the worker: what it is given, put together and sent."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gen_worker.errors import CanceledError, WorkerError, classify
from gen_worker.runtime.scheduler.dispatcher.core import cost_key_of
from gen_worker.runtime.scheduler.errors import LedgerWriteError
from gen_worker.runtime.scheduler.fleet.job import Job
from gen_worker.runtime.wire import JobRequest, ResolvedCompute, UnloadModel

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.decisions import Give
    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.dispatcher.ports import Equipment, Facts, Outfit
    from gen_worker.runtime.scheduler.job_options import JobOptions
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.scheduler.values import StoredCall

__all__ = ["Giving"]

_PAUSE_S = 1.0
"""Before a request waits again whose payload cannot be read."""
_GIB = 1024**3

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Giving:
    """Packs and sends, many requests at the same time. On the loop."""

    def __init__(self, core: Core, outfit: Outfit) -> None:
        self._core = core
        self._outfit = outfit
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give nothing more: what was not sent waits again, with whoever opens the ledger next."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def give(self, live: Live, options: JobOptions, facts: Facts, decision: Give) -> None:
        """Have a worker given a request that was taken from its queue."""
        core, now = self._core, self._core.clock()
        member = core.fleet.find(decision.worker_id)
        assert member is not None, "placement chooses from the fleet"
        job = Job(
            live,
            member,
            gpu_index=decision.gpu_index,
            refs=options.refs,
            tier=decision.tier,
            now=now,
            ends_at=decision.ends_at,
            cost_key=cost_key_of(live.record, options),
            facts=facts,
        )
        job.is_alone = not any(
            one.gpu_index == job.gpu_index for one in member.jobs.values() if one is not job
        )
        if decision.unload:
            member.make_room(job.gpu_index, decision.unload)
            for ref in decision.unload:
                core.tell(member, UnloadModel(model_id=ref))
        run_s = max(0.0, decision.ends_at - decision.starts_at)
        member.add(job, decision.starts_at + run_s, core.fleet.sizes, now)
        core.begin(job)
        task = core.loop.create_task(self._give(job, options))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, job: Job, options: JobOptions) -> None:
        live, requests = job.live, self._core.requests
        try:
            packed = await self._pack(job)
        except LedgerWriteError as error:
            _log.warning("the payload of %r cannot be read now: %s", live, error)
            self._core.finish(job)
            self._core.later(_PAUSE_S, requests.put_back, live)
            return
        except WorkerError as error:
            self._fail(job, error)
            return
        except Exception as error:  # whoever waits for it is told
            _log.exception("%r cannot be put together", live)
            self._fail(job, error)
            return
        if live.is_over or job.is_interrupted or live.is_canceling:
            self._fail(job, CanceledError())
        else:
            self._send(job, self._request(job, options, *packed))

    async def _pack(self, job: Job) -> tuple[StoredCall, Equipment]:
        call = await self._core.requests.call(job.live)
        return call, await self._outfit.outfit(job.live, job.member.state(), call.payload)

    def _request(
        self, job: Job, options: JobOptions, call: StoredCall, equipment: Equipment
    ) -> JobRequest:
        record = job.live.record
        return JobRequest(
            request_id=record.request_id,
            function=record.function,
            payload=call.payload,
            timeout_ms=self._timeout_ms(record.deadline_at),
            owner=record.owner,
            invoker_id=options.invoker_id,
            file_base_url=equipment.file_base_url,
            capability_token=equipment.capability_token,
            job_id=equipment.job_id,
            repos=equipment.repos,
            compute=_compute(job),
            hints=options.hints,
            models={**options.models, **equipment.models},
        )

    def _timeout_ms(self, deadline_at: float | None) -> int:
        if deadline_at is None:
            return 0
        return max(1, round((deadline_at - self._core.clock()) * 1000))

    def _send(self, job: Job, request: JobRequest) -> None:
        core, live, member = self._core, job.live, job.member
        try:
            is_taken = member.is_connected and core.tell(member, request)
        except WorkerError as error:  # it is too long, or holds what the wire cannot carry
            self._fail(job, error)
            return
        except ValueError as error:
            self._fail(job, error)
            return
        if is_taken:
            assert member.session is not None
            job.connection = member.session.connection
            job.attempt = core.requests.given(live, member.worker_id)
            return
        if member.is_connected:  # it does not read what it was sent
            until = member.refused(core.clock())
            core.later(until - core.clock(), core.freed, member)
        core.finish(job)
        core.requests.put_back(live)

    def _fail(self, job: Job, error: BaseException) -> None:
        """Have an attempt fail that no worker has begun."""
        self._core.finish(job)
        live = job.live
        self._core.requests.failed(live, live.attempt, classify(error, origin="input"))


def _compute(job: Job) -> ResolvedCompute | None:
    """Return which hardware was chosen; None for a function that needs no GPU."""
    if job.gpu_index is None:
        return None
    hardware = job.member.hardware
    return ResolvedCompute(
        accelerator="cuda",
        vram_gb=hardware.vram_bytes // _GIB,
        gpu_count=1,
        gpu_index=job.gpu_index,
    )
