"""The client for event loops."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gen_worker.client.addresses import base_url_of
from gen_worker.client.async_driver import AsyncDriver
from gen_worker.client.async_handles import AsyncFile, AsyncRequest
from gen_worker.client.async_map import mapped
from gen_worker.client.calls import Call, Order, order_of, read_as, submit
from gen_worker.client.files import Uploads, download, facts_of
from gen_worker.client.host import Host
from gen_worker.client.retries import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable, Mapping
    from types import TracebackType

    import httpx

    from gen_worker.client.calls import OnEvent, OnRestart
    from gen_worker.client.files import AnyFile
    from gen_worker.types import Asset

    Path = str | os.PathLike[str]

__all__ = ["AsyncClient"]

T = TypeVar("T")

_LEAVE_S = 3.0


class AsyncClient:
    """`Client` for one event loop: the same methods, to be awaited.

    Example:
        async with AsyncClient("http://127.0.0.1:8080") as client:
            async for word in client.stream("write", words=3):
                print(word["text"])
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        retry: RetryPolicy | None = None,
        silence_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Bind to a host; nothing is sent yet.

        Args:
            url: As in `Client`.
            token: As in `Client`.
            retry: As in `Client`.
            silence_s: As in `Client`.
            transport: Instead of the network, such as `httpx.AsyncHTTPTransport(uds=...)`.

        Raises:
            ValidationError: The URL is none.
        """
        self.url = base_url_of(url)
        self._host = Host(retry or RetryPolicy(), silence_s)
        self._driver = AsyncDriver(self.url, token, transport)
        self._uploads = Uploads(self._host)
        self._leaving: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; hosts are told before of calls that nobody waits for any more."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_LEAVE_S)
        await self._driver.close()

    # -- calls -------------------------------------------------------------------------------------

    @overload
    async def run(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        result_type: type[T],
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> T: ...
    @overload
    async def run(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        result_type: Any = None,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any: ...
    async def run(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        result_type: Any = None,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Call a function and return its output, as `Client.run` does.

        Canceling the task cancels the call.
        """
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        return await self._output(self._call(order, on_event), result_type)

    def _call(self, order: Order, on_event: OnEvent | None = None) -> Call:
        return Call(self._host, self._uploads, order, on_event)

    async def _output(self, call: Call, result_type: Any) -> Any:
        try:
            return read_as(await self._driver.run(call.output()), result_type)
        finally:
            self._leave(call)

    @overload
    def stream(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        item_type: type[T],
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[T]: ...
    @overload
    def stream(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        item_type: Any = None,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Any]: ...
    async def stream(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        item_type: Any = None,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Any]:
        """Iterate over the items of a function's output as they come, as `Client.stream` does.

        Who leaves the loop early should close the iterator: `contextlib.aclosing` does. Left to the
        garbage collector, the call is canceled later.
        """
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        call = self._call(order, on_event)
        items = self._driver.iterate(call.items(item_type, on_restart))
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()
            self._leave(call)

    def map(
        self,
        function: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        result_type: Any = None,
        concurrency: int = 8,
        ordered: bool = True,
        return_errors: bool = False,
        timeout_s: float | None = None,
        envelope: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Any]:
        """Iterate over the outputs of many calls, as `Client.map` does.

        Args:
            function: As in `Client.run`.
            payloads: One for each call; an iterable that waits for something should be async.
            result_type: As in `Client.map`.
            concurrency: As in `Client.map`.
            ordered: As in `Client.map`.
            return_errors: As in `Client.map`.
            timeout_s: As in `Client.map`.
            envelope: As in `Client.map`.

        Raises:
            CallError: A call failed.
        """

        def make(payload: Any) -> Coroutine[Any, Any, Any]:
            order = Order(function, payload, timeout_s, "", envelope)
            return self._output(self._call(order), result_type)

        return mapped(
            make, payloads, concurrency=concurrency, ordered=ordered, return_errors=return_errors
        )

    async def submit(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncRequest:
        """Start a request and do not wait for it, as `Client.submit` does."""
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        return AsyncRequest(
            self._driver,
            self._host,
            await self._driver.run(submit(self._host, self._uploads, order)),
        )

    def request(self, request_id: str) -> AsyncRequest:
        """Return a request that was submitted earlier; nothing is asked yet."""
        return AsyncRequest(self._driver, self._host, request_id)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request or a call, as `Client.cancel` does."""
        return await self._driver.run(self._host.cancel(request_id))

    def _leave(self, call: Call) -> None:
        """Cancel a call that nobody waits for any more, without waiting for that."""
        if call.may_run and not self._driver.is_closed:
            task = asyncio.get_running_loop().create_task(self._driver.run(call.leave()))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    # -- files -------------------------------------------------------------------------------------

    async def upload(self, path: Path, *, name: str = "") -> Asset:
        """Send a file, for payloads to refer to, as `Client.upload` does."""
        return await self._driver.run(self._uploads.upload(os.fspath(path), name))

    def file(self, file: AnyFile) -> AsyncFile:
        """Return a file of a result, as `Client.file` does."""
        return AsyncFile(self._driver, self._host, file)

    async def download(self, file: AnyFile, path: Path) -> None:
        """Fetch a file of a result, as `Client.download` does."""
        await self._driver.run(download(self._host, facts_of(file), os.fspath(path)))

    # -- the host ----------------------------------------------------------------------------------

    async def functions(self) -> list[dict[str, Any]]:
        """List the functions, with the JSON Schemas of their input and output."""
        return await self._driver.run(self._host.listed("/v1/functions", "functions"))

    def requests(self, **filters: Any) -> AsyncGenerator[dict[str, Any]]:
        """Iterate over the requests that a scheduler knows, as `Client.requests` does."""
        return self._driver.iterate(self._host.pages("/v1/requests", "requests", filters))

    async def workers(self) -> list[dict[str, Any]]:
        """List the workers of a scheduler."""
        return await self._driver.run(self._host.listed("/v1/workers", "workers"))

    async def models(self) -> list[dict[str, Any]]:
        """List the models of a scheduler's workers, and where each is loaded."""
        return await self._driver.run(self._host.listed("/v1/models", "models"))

    async def releases(self, **filters: Any) -> list[dict[str, Any]]:
        """List the releases of a scheduler, as `Client.releases` does."""
        return await self._driver.run(self._host.listed("/v1/releases", "releases", **filters))
