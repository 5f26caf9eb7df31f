"""A whole worker in this process, for tests of endpoints against an orchestrator."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.runtime.worker.addresses import parse_address
from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.states import LinkPolicy
from gen_worker.runtime.worker.worker import Worker, WorkerOptions
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gen_worker.testing.orchestrator import Orchestrator

__all__ = ["running_worker"]

_PARTS = ("manifest", "make_ports", "observer", "outbox_limits", "clock")


@asynccontextmanager
async def running_worker(
    orchestrator: Orchestrator, *endpoints: object, **options: Any
) -> AsyncIterator[Worker]:
    """Run a worker until the block ends; it connects anew within milliseconds.

    Args:
        orchestrator: Where it connects to.
        *endpoints: Decorated functions and classes.
        **options: Fields of `WorkerOptions`, and keywords of `Worker`.
    """
    policy = LinkPolicy(
        seeds=(parse_address(orchestrator.address),),
        backoff=Backoff(0.01, 0.05, 0.0),
        grace_s=0.05,
    )
    parts = {name: options.pop(name) for name in _PARTS if name in options}
    options = {"token": "a-token", "heartbeat_s": 0.05, **options}
    specs = [spec for endpoint in endpoints for spec in specs_of(endpoint)]
    worker = Worker(specs, policy, WorkerOptions(**options), **parts)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.link.leave(0.0)
        await task
