"""FastAPI as an HTTP peer: the same two functions, async and `def`, on the same server.

Usage: python http_fastapi.py PORT
"""

import asyncio
import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel


class Text(BaseModel):
    text: str = ""
    count: int = 1


app = FastAPI()


@app.post("/async")
async def echo_async(payload: Text) -> Text:
    return payload


@app.post("/def")
def echo_sync(payload: Text) -> Text:
    return payload


async def main():
    options = {"lifespan": "off", "access_log": False, "log_level": "error"}
    config = uvicorn.Config(app, port=int(sys.argv[1]), http="httptools", **options)
    await uvicorn.Server(config).serve()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
