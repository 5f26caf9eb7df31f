"""What the endpoint does. Every decorated function in this package can be called."""

from typing import Annotated

import msgspec
from gen_worker import Clamp, RequestContext, ValidationError, inference_function


class Input(msgspec.Struct):
    """What a caller sends."""

    name: str
    times: Annotated[int, Clamp(1, 5)] = 1


class Output(msgspec.Struct):
    """What the caller gets back."""

    message: str


@inference_function
def greet(ctx: RequestContext, payload: Input) -> Output:
    """Greet somebody by name, up to five times."""
    name = payload.name.strip()
    if not name:
        raise ValidationError("name is empty: whom shall I greet?", path="$.name")
    greetings = []
    for turn in range(payload.times):
        ctx.raise_if_canceled()
        greetings.append(f"Hello, {name}!")
        ctx.progress((turn + 1) / payload.times, stage="greeting")
    return Output(message=" ".join(greetings))
