"""Plain functions: sync, async, streamed, failing, stubborn."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

import msgspec

from gen_worker import (
    Asset,
    Clamp,
    ImageAsset,
    RequestContext,
    RetryableError,
    ValidationError,
    inference_function,
)


class Ask(msgspec.Struct):
    text: str
    times: Annotated[int, Clamp(1, 3)] = 1
    mood: Literal["calm", "loud"] = "calm"
    tags: list[str] = []


class Reply(msgspec.Struct):
    text: str


class Count(msgspec.Struct):
    limit: int = 2


class Tick(msgspec.Struct):
    n: int


class Picture(msgspec.Struct):
    image: ImageAsset


class Stored(msgspec.Struct):
    file: Asset


class Nothing(msgspec.Struct):
    pass


def started() -> None:
    """Tell the test that the handler runs."""
    print("started", file=sys.stderr, flush=True)


@inference_function(description="Repeats a text.")
def echo(ctx: RequestContext, payload: Ask) -> Reply:
    text = " ".join([payload.text] * payload.times)
    return Reply(text=text.upper() if payload.mood == "loud" else text)


@inference_function
def tags(ctx: RequestContext, payload: Ask) -> Reply:
    return Reply(text=",".join(payload.tags))


@inference_function
def count(ctx: RequestContext, payload: Count) -> Iterator[Tick]:
    for n in range(1, payload.limit + 1):
        yield Tick(n=n)


@inference_function
async def later(ctx: RequestContext, payload: Ask) -> Reply:
    await asyncio.sleep(0)
    return Reply(text=payload.text)


@inference_function
async def ticks(ctx: RequestContext, payload: Count) -> AsyncIterator[Tick]:
    for n in range(1, payload.limit + 1):
        await asyncio.sleep(0)
        yield Tick(n=n)


@inference_function
def noisy(ctx: RequestContext, payload: Nothing) -> Reply:
    print("a print")
    os.write(1, b"a raw write\n")
    subprocess.run(["echo", "a child"], check=True)
    return Reply(text="clean")


@inference_function
def reporting(ctx: RequestContext, payload: Nothing) -> Reply:
    ctx.progress(0.5, stage="half")
    ctx.log("a line", level="warning")
    ctx.emit("shapes.custom", {"z": 1, "a": [1]})
    return Reply(text=ctx.request_id)


@inference_function
def slow(ctx: RequestContext, payload: Count) -> Reply:
    """Takes a bit more than a second, so that a terminal shows a bar."""
    for step in range(13):
        time.sleep(0.1)
        ctx.progress(step / 13, stage="cooking")
    return Reply(text="done")


@inference_function
def refusing(ctx: RequestContext, payload: Nothing) -> Reply:
    raise ValidationError("this text is not accepted", path="$.text")


@inference_function
def crashing(ctx: RequestContext, payload: Nothing) -> Reply:
    raise RuntimeError("boom /tmp/some/private/path")


@inference_function
def busy_elsewhere(ctx: RequestContext, payload: Nothing) -> Reply:
    raise RetryableError("come back later")


@inference_function
def polite(ctx: RequestContext, payload: Nothing) -> Reply:
    """Waits for a cancel as the documentation says."""
    started()
    while True:
        ctx.raise_if_canceled()
        time.sleep(0.005)


@inference_function
def busy(ctx: RequestContext, payload: Nothing) -> Reply:
    """Never looks at the context."""
    started()
    n = 0
    while True:
        n += 1


@inference_function
def deaf(ctx: RequestContext, payload: Count) -> Reply:
    """Swallows every cancel, as careless code does, for a tenth of a second per `limit`."""
    for step in range(payload.limit):
        try:
            if step == 0:
                started()
            time.sleep(0.1)
        except BaseException:
            print("swallowed", file=sys.stderr, flush=True)
    return Reply(text="finished")


@inference_function
def unmoved(ctx: RequestContext, payload: Nothing) -> Reply:
    """Swallows the cancel, and answers all the same."""
    try:
        started()
        time.sleep(60)
    except BaseException:
        return Reply(text="finished")
    return Reply(text="nobody came")


@inference_function
def stuck(ctx: RequestContext, payload: Nothing) -> Reply:
    """Sits in a C library that knows no signals, for minutes."""
    threading.Thread(target=tell_when_stuck, args=(threading.get_ident(),), daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 500_000_000)
    return Reply(text="never")


def tell_when_stuck(thread: int) -> None:
    """Wait until `stuck` has not left its long line for a while."""
    place = None
    while True:
        frame = sys._current_frames()[thread]
        seen = (frame.f_code.co_name, frame.f_lasti)
        if seen == place and seen[0] == "stuck":
            started()
            return
        place = seen
        time.sleep(0.1)


@inference_function
async def waiting(ctx: RequestContext, payload: Nothing) -> Reply:
    started()
    await asyncio.sleep(3600)
    return Reply(text="never")


@inference_function
def endless(ctx: RequestContext, payload: Nothing) -> Iterator[Tick]:
    started()
    n = 0
    while True:
        n += 1
        yield Tick(n=n)


@inference_function
def saving(ctx: RequestContext, payload: Ask) -> Stored:
    return Stored(file=ctx.save_bytes("notes/text.txt", payload.text.encode()))


@inference_function
def looking(ctx: RequestContext, payload: Picture) -> Reply:
    assert payload.image.local_path is not None
    return Reply(text=f"{payload.image.mime_type} {os.path.getsize(payload.image.local_path)}")
