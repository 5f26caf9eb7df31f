"""Many calls at a time, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from gen_worker.client.windows import Window, output_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable

    Make = Callable[[Any], Coroutine[Any, Any, Any]]

__all__ = ["mapped"]

_END = object()


def mapped(
    make: Make,
    payloads: Iterable[Any] | AsyncIterable[Any],
    *,
    concurrency: int,
    ordered: bool,
    return_errors: bool,
) -> AsyncGenerator[Any]:
    """Iterate over the outputs of calls; see `AsyncClient.map`.

    Args:
        make: Makes a call of a payload.
        payloads: One for each call.
        concurrency: How many calls run at a time.
        ordered: Give outputs in the order of the payloads.
        return_errors: Give a `CallError` in the place of an output.

    Raises:
        ValueError: No call would run.
    """
    window: Window[asyncio.Task[Any]] = Window(concurrency, ordered)
    return _mapped(make, _source(payloads), window, return_errors)


async def _mapped(
    make: Make,
    payloads: AsyncGenerator[Any],
    window: Window[asyncio.Task[Any]],
    return_errors: bool,
) -> AsyncGenerator[Any]:
    coming: asyncio.Task[Any] | None = None
    is_exhausted = False
    try:
        while True:
            for task in window.take():
                yield output_of(task, return_errors)
            if coming is not None and coming.done():
                payload, coming = coming.result(), None
                is_exhausted = payload is _END
                if not is_exhausted:
                    window.calls.append(asyncio.create_task(make(payload)))
                continue
            if coming is None and window.has_room and not is_exhausted:
                coming = asyncio.create_task(_next(payloads))
            waited = [*window.running, *([coming] if coming is not None else [])]
            if waited:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            elif not window.calls:
                return
    finally:
        left = [*window.calls, *([coming] if coming is not None else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await payloads.aclose()


async def _next(payloads: AsyncGenerator[Any]) -> Any:
    return await anext(payloads, _END)


async def _source(payloads: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    if isinstance(payloads, AsyncIterable):
        async for payload in payloads:
            yield payload
    else:
        for payload in payloads:
            yield payload
