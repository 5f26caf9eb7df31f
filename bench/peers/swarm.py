"""Workers that cost little, for servers that are measured: each echoes its jobs at once.

One process has them all; each has a connection of its own with the three streams, and says every
ten seconds how it is, at another moment than the others.
Usage: python swarm.py HOST:PORT[/RELEASE] WORKERS
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import grpc.aio
import uvloop

from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    JobRequest,
    JobResult,
    Registration,
    Resources,
    decode,
    encode,
)

if TYPE_CHECKING:
    from gen_worker.runtime.wire import StreamRole

HEARTBEAT_S = 10.0
ADDRESS, _, RELEASE = sys.argv[1].partition("/")
ROLES: tuple[StreamRole, ...] = ("control", "results", "events")


def registration(number: int, role: StreamRole, *, is_heartbeat: bool) -> bytes:
    resources = Resources(
        worker_id=f"worker-{number}", release_id=RELEASE, available_functions=("echo-sync",)
    )
    return encode(
        Registration(
            resources=resources,
            is_heartbeat=is_heartbeat,
            supports_split_streams=True,
            stream_role=role,
        )
    )


async def beat(control: Any, number: int, workers: int) -> None:
    await asyncio.sleep(HEARTBEAT_S * number / workers)
    data = registration(number, "control", is_heartbeat=True)
    while True:
        await control.write(data)
        await asyncio.sleep(HEARTBEAT_S)


async def work(number: int, workers: int) -> None:
    # Channels of one process share a connection, unless their options differ.
    options = (*CHANNEL_OPTIONS, ("bench.worker", number))
    async with grpc.aio.insecure_channel(ADDRESS, options=options) as channel:
        streams = {}
        for role in ROLES:
            opened: Any = channel.stream_stream(METHODS[role])
            streams[role] = opened()
            await streams[role].write(registration(number, role, is_heartbeat=role != "control"))
        beating = asyncio.create_task(beat(streams["control"], number, workers))
        while isinstance(data := await streams["control"].read(), bytes):
            request = decode(data)
            if isinstance(request, JobRequest):
                result = JobResult(
                    request_id=request.request_id, success=True, payload=request.payload
                )
                await streams["results"].write(encode(result))
        beating.cancel()


async def main() -> None:
    workers = int(sys.argv[2])
    await asyncio.gather(*(work(number, workers) for number in range(workers)))


if __name__ == "__main__":
    uvloop.run(main())
