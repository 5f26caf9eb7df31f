"""FastAPI as an HTTP peer: the same two functions, async and `def`, on the same server.

Usage: python http_fastapi.py PORT
"""

import asyncio
import sys

import uvicorn
import uvloop
from fastapi import FastAPI  # type: ignore[import-not-found]
from pydantic import BaseModel  # type: ignore[import-not-found]


class Text(BaseModel):  # type: ignore[misc]
    text: str = ""
    count: int = 1


app = FastAPI()


@app.post("/async")  # type: ignore[untyped-decorator]
async def echo_async(payload: Text) -> Text:
    return payload


@app.post("/def")  # type: ignore[untyped-decorator]
def echo_sync(payload: Text) -> Text:
    return payload


async def main() -> None:
    config = uvicorn.Config(
        app,
        port=int(sys.argv[1]),
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
    await uvicorn.Server(config).serve()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
