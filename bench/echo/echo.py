"""The functions both servers of the NDJSON benchmark call."""

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
