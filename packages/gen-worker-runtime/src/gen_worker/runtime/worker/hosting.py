"""The host that a worker's functions see: where its ports are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Events
    from gen_worker.runtime.files.scope import JobScope
    from gen_worker.runtime.worker.job import Job
    from gen_worker.runtime.worker.models import WorkerModels

__all__ = ["Seams", "worker_ports"]


class Seams(NamedTuple):
    """What the ports of a worker are made of."""

    events: Events
    models: WorkerModels
    find: Callable[[str], Job | None]
    """Returns a job that is under way. Any thread."""
    ended: list[Callable[[str], object]]
    """Called with the id of each job that was answered, on the loop; must not block."""
    closes: list[Callable[[], object]]
    """Called when the worker has ended; may block."""


_REPEATS_WITHIN_S = 600.0
"""Results that were not heard of are sent again, and their requests given away again, well before
that: an orchestrator notices a dead connection within half a minute."""


def worker_ports(seams: Seams) -> Ports:
    """Return the ports of a worker, with files as the settings say.

    Raises:
        SettingsError: One of them is not understood.
    """
    from gen_worker.context.local import run_blocking
    from gen_worker.runtime.files import (
        FilePolicy,
        FileSettings,
        HubPublisher,
        JobScope,
        WorkerFiles,
    )
    from gen_worker.settings import load

    settings = load(FileSettings)

    def scope_of(request_id: str) -> tuple[JobScope, CancelToken] | None:
        job = seams.find(request_id)
        if job is None:
            return None
        request = job.request
        scope = JobScope(
            base_url=request.file_base_url,
            capability_token=request.capability_token,
            owner=request.owner,
            job_id=request.job_id,
            hints=job.invocation.hints,
        )
        return scope, job.token

    files = WorkerFiles(
        FilePolicy.of(settings), seams.events, default=JobScope.of(settings), find=scope_of
    )
    seams.ended.append(files.leave)
    seams.closes.append(files.close)
    return Ports(
        files=files,
        events=seams.events,
        models=seams.models,
        publisher=HubPublisher(files),
        run=run_blocking,
        repeats_within_s=_REPEATS_WITHIN_S,
    )
