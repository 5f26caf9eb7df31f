"""What an async client hands out: requests and files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gen_worker.client.calls import follow, read_as, result_of
from gen_worker.client.files import download, facts_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gen_worker.client.async_driver import AsyncDriver
    from gen_worker.client.files import AnyFile
    from gen_worker.client.host import Host
    from gen_worker.client.values import StreamEvent

    Path = str | os.PathLike[str]

__all__ = ["AsyncFile", "AsyncRequest"]

T = TypeVar("T")


class AsyncRequest:
    """A request that goes on without its client; the same methods as `Request`, to be awaited."""

    def __init__(self, driver: AsyncDriver, host: Host, request_id: str) -> None:
        self.id = request_id
        self._driver = driver
        self._host = host

    def __repr__(self) -> str:
        return f"AsyncRequest({self.id!r})"

    async def show(self) -> dict[str, Any]:
        """Return all that the host says of it."""
        return await self._driver.run(self._host.show(self.id))

    async def status(self) -> str:
        """Return `queued`, `running`, `succeeded`, `failed` or `canceled`."""
        return str((await self.show()).get("status", ""))

    async def position(self) -> int | None:
        """Return how many requests are before it; None when it does not wait in a queue."""
        position = (await self.show()).get("position")
        return position if isinstance(position, int) else None

    @overload
    async def result(self, timeout_s: float | None = None, *, result_type: type[T]) -> T: ...
    @overload
    async def result(self, timeout_s: float | None = None, *, result_type: Any = None) -> Any: ...
    async def result(self, timeout_s: float | None = None, *, result_type: Any = None) -> Any:
        """Wait for its end and return its output, as `Request.result` does."""
        output = await self._driver.run(result_of(self._host, self.id, timeout_s))
        return read_as(output, result_type)

    def events(self, after: int = 0) -> AsyncGenerator[StreamEvent]:
        """Iterate over its events, as `Request.events` does."""
        return self._driver.iterate(follow(self._host, self.id, after))

    async def cancel(self) -> bool:
        """Cancel it; False when it had ended."""
        return await self._driver.run(self._host.cancel(self.id))


class AsyncFile:
    """A file that a call has put out."""

    def __init__(self, driver: AsyncDriver, host: Host, file: AnyFile) -> None:
        self._driver = driver
        self._host = host
        self._facts = facts_of(file)

    def __repr__(self) -> str:
        return f"AsyncFile({self.ref!r})"

    @property
    def ref(self) -> str:
        return self._facts.ref

    @property
    def size_bytes(self) -> int | None:
        """None when the result does not say."""
        return self._facts.size_bytes

    async def save_to(self, path: Path) -> None:
        """Do as `Client.download`."""
        await self._driver.run(download(self._host, self._facts, os.fspath(path)))

    async def read(self) -> bytes:
        """Return its content."""
        return await self._driver.run(download(self._host, self._facts))
