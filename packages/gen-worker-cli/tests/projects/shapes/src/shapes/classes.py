"""A class endpoint whose life is written to stderr."""

import sys

import msgspec

from gen_worker import RequestContext, inference, invocable


class Prompt(msgspec.Struct):
    prompt: str


class Painting(msgspec.Struct):
    caption: str


def tell(what: str) -> None:
    print(f"painter: {what}", file=sys.stderr, flush=True)


@inference
class Painter:
    def setup(self) -> None:
        tell("setup")
        self.count = 0

    def warmup(self) -> None:
        tell("warmup")

    def shutdown(self) -> None:
        tell("shutdown")

    @invocable(name="paint-it")
    def paint(self, ctx: RequestContext, payload: Prompt) -> Painting:
        self.count += 1
        return Painting(caption=f"{payload.prompt} {self.count}")

    @invocable
    def spoil(self, ctx: RequestContext, payload: Prompt) -> Painting:
        raise RuntimeError("spoiled")

    @invocable
    def ponder(self, ctx: RequestContext, payload: Prompt) -> Painting:
        tell("pondering")
        while True:
            ctx.raise_if_canceled()
