"""What an author writes, as mypy --strict has to accept it against the installed wheels."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, assert_type

import msgspec

import gen_worker
from gen_worker import (
    Asset,
    Clamp,
    RequestContext,
    Resources,
    ValidationError,
    inference,
    inference_function,
    invocable,
)
from gen_worker.errors import RetryableError, WorkerError


class Call(msgspec.Struct):
    text: str = ""
    times: Annotated[int, Clamp(1, 10)] = 1
    picture: Asset | None = None


class Answer(msgspec.Struct):
    text: str


@inference_function
def echo(ctx: RequestContext, payload: Call) -> Answer:
    if not payload.text:
        raise ValidationError("text is empty")
    return Answer(text=payload.text * payload.times)


@inference_function(resources=Resources(min_vram_gb=8))
def words(ctx: RequestContext, payload: Call) -> Iterator[Answer]:
    for word in payload.text.split():
        yield Answer(text=word)


@gen_worker.inference_function(name="slow-words")
async def slow_words(ctx: RequestContext, payload: Call) -> AsyncIterator[Answer]:
    yield Answer(text=payload.text)


@inference
class Counter:
    def setup(self) -> None:
        self.count = 0

    @invocable
    def count_up(self, ctx: RequestContext, payload: Call) -> Answer:
        self.count += payload.times
        return Answer(text=str(self.count))


context = RequestContext("request")
assert_type(echo(context, Call()), Answer)
assert_type(words(context, Call()), Iterator[Answer])
assert_type(Counter().count_up(context, Call()), Answer)
# A decorated function keeps its signature: mypy reports an ignore that ignores nothing.
echo(context, "text")  # type: ignore[arg-type]

failure: WorkerError = RetryableError("busy")
