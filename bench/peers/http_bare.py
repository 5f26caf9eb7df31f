"""The HTTP peer: a bare ASGI application that sends back what it gets, on the same server.

`/echo` answers with the request's body, `/hold` waits until its client leaves, `/stream/N` is a
generator whose N items are sent one by one. No payloads, contexts, limits or cancellation.
Usage: python http_bare.py PORT
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ITEM = b'event: delta\ndata: {"text":"tok ","count":%d}\n\n'
LENGTH = b"content-length"


async def items(count: int) -> AsyncIterator[bytes]:
    for index in range(count):
        yield ITEM % index


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    path = scope["path"]
    message = await receive()
    if path == "/echo":
        body = message["body"]
        headers = [(b"content-type", b"application/json"), (LENGTH, b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif path == "/hold":
        print("holding", file=sys.stderr, flush=True)
        while (await receive())["type"] != "http.disconnect":
            pass
        print("left", time.monotonic(), file=sys.stderr, flush=True)
    else:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for item in items(int(path.rpartition("/")[2])):
            await send({"type": "http.response.body", "body": item, "more_body": True})
        await send({"type": "http.response.body", "body": b"event: result\ndata: {}\n\n"})


async def main() -> None:
    config = uvicorn.Config(
        app,
        port=int(sys.argv[1]),
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
    )
    await uvicorn.Server(config).serve()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
