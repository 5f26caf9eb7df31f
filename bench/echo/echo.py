"""The functions that the servers of the benchmarks call."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator

import msgspec

from gen_worker import RequestContext, inference_function


class Text(msgspec.Struct):
    text: str
    count: int = 1


class Piece(msgspec.Struct):
    text: str


@inference_function
async def echo_async(ctx: RequestContext, payload: Text) -> Piece:
    return Piece(text=payload.text)


@inference_function
def echo_sync(ctx: RequestContext, payload: Text) -> Piece:
    return Piece(text=payload.text)


@inference_function
async def stream_async(ctx: RequestContext, payload: Text) -> AsyncIterator[Piece]:
    for _ in range(payload.count):
        yield Piece(text=payload.text)


@inference_function
def stream_sync(ctx: RequestContext, payload: Text) -> Iterator[Piece]:
    for _ in range(payload.count):
        yield Piece(text=payload.text)


@inference_function
async def slowly(ctx: RequestContext, payload: Text) -> AsyncIterator[Piece]:
    for _ in range(payload.count):
        await asyncio.sleep(0.02)
        yield Piece(text=payload.text)


@inference_function
async def hold(ctx: RequestContext, payload: Text) -> Piece:
    token = ctx.cancel_token
    token.on_cancel(lambda: print("left", time.monotonic(), file=sys.stderr, flush=True))
    print("holding", file=sys.stderr, flush=True)
    await asyncio.Event().wait()
    return Piece(text=payload.text)
