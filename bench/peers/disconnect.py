"""The disconnect peer: a bare protocol whose one handler is cancelled when its client leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Bare(asyncio.Protocol):
    """Starts `handler` at the first bytes. No frames, calls, answers or half-closed peers."""

    def __init__(self, handler: Callable[[], Coroutine[object, object, object]]) -> None:
        self.handler = handler
        self.task: asyncio.Task[object] | None = None

    def data_received(self, _data: bytes) -> None:
        self.task = asyncio.get_running_loop().create_task(self.handler())

    def connection_lost(self, _error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()
