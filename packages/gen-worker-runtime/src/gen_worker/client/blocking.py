"""The blocking client."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gen_worker.client.addresses import base_url_of
from gen_worker.client.blocking_driver import BlockingDriver
from gen_worker.client.blocking_handles import File, Request
from gen_worker.client.blocking_map import Pending, mapped
from gen_worker.client.calls import Call, Order, order_of, read_as, submit
from gen_worker.client.files import Uploads, download, facts_of
from gen_worker.client.host import Host
from gen_worker.client.retries import RetryPolicy

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from types import TracebackType

    import httpx

    from gen_worker.client.calls import OnEvent, OnRestart
    from gen_worker.client.files import AnyFile
    from gen_worker.types import Asset

    Path = str | os.PathLike[str]

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """One host: `gen-worker serve --http`, or a scheduler. Threads may share a client.

    Keyword arguments that are not listed are fields of the payload. A field that is named like an
    option goes into a payload: `client.run("f", {"timeout_s": 3})`.

    Example:
        with Client("http://127.0.0.1:8080") as client:
            print(client.run("write", start="the", words=3))
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        retry: RetryPolicy | None = None,
        silence_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Bind to a host; nothing is sent yet.

        Args:
            url: Such as `http://127.0.0.1:8080`.
            token: Sent as a bearer, to this host only.
            retry: How often and how slowly to try again.
            silence_s: A connection on which nothing came for so long is taken for broken; hosts
                show a sign of life every 15 seconds.
            transport: Instead of the network, such as `httpx.HTTPTransport(uds=...)`.

        Raises:
            ValidationError: The URL is none.
        """
        self.url = base_url_of(url)
        self._host = Host(retry or RetryPolicy(), silence_s)
        self._driver = BlockingDriver(self.url, token, transport)
        self._uploads = Uploads(self._host)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        self._driver.close()

    # -- calls -------------------------------------------------------------------------------------

    @overload
    def run(
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
    def run(
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
    def run(
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
        """Call a function, wait, and return its output; of one that streams the list of its items.

        A call whose caller stops waiting (Ctrl-C, a timeout, an error) is canceled.

        Args:
            function: `function`, `endpoint/function` or `owner/endpoint/function[:tag]`.
            payload: A Struct, dataclass or dict. A `Path` in it is uploaded, and stands for the
                file.
            result_type: What to decode the output into; None leaves it as JSON has it.
            timeout_s: How long the call may take. The host keeps the time.
            idempotency_key: Calls with the same key and payload are one. Such a call goes on when
                its caller stops waiting.
            on_event: Told of progress, logs and other events as they come.
            envelope: Further keys for the host, such as `owner`, `priority` or `webhook`.
            **fields: Of the payload, in the place of one.

        Raises:
            CallError: The call failed; it is of the class of `gen_worker.errors` as well.
            ValidationError: The payload cannot be sent, or the output is of another type.
        """
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        return read_as(self._output(self._call(order, on_event)), result_type)

    def _call(self, order: Order, on_event: OnEvent | None = None) -> Call:
        return Call(self._host, self._uploads, order, on_event)

    def _output(self, call: Call, stop: threading.Event | None = None) -> bytes:
        try:
            return self._driver.run(call.output(), stop)
        except BaseException:
            self._leave(call)
            raise

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
    ) -> Generator[T]: ...
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
    ) -> Generator[Any]: ...
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
    ) -> Generator[Any]:
        """Call a function and iterate over the items of its output as they come.

        It is called when the first item is asked for. A broken connection is taken up again where
        it broke. Who stops before the end cancels the call: leave the loop, or close the iterator.
        A function that does not stream gives one item.

        Args:
            function: As in `run`.
            payload: As in `run`.
            item_type: What to decode each item into.
            timeout_s: As in `run`.
            idempotency_key: As in `run`.
            on_event: As in `run`.
            on_restart: Called with the number of the attempt when the request begins anew, after a
                worker was lost; all items of before are to be forgotten. Without it that is a
                `StreamRestartedError`, once an item was given.
            envelope: As in `run`.
            **fields: As in `run`.

        Raises:
            CallError: As in `run`.
            StreamGapError: Items were dropped before they were read.
        """
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        call = self._call(order, on_event)
        try:
            yield from self._driver.iterate(call.items(item_type, on_restart))
        finally:
            self._leave(call)

    def map(
        self,
        function: str,
        payloads: Iterable[Any],
        *,
        result_type: Any = None,
        concurrency: int = 8,
        ordered: bool = True,
        return_errors: bool = False,
        timeout_s: float | None = None,
        envelope: Mapping[str, Any] | None = None,
    ) -> Generator[Any]:
        """Call a function with each payload, several at a time, and iterate over the outputs.

        Payloads are taken only as calls can begin, so there may be infinitely many. Who stops
        before the end cancels what runs.

        Args:
            function: As in `run`.
            payloads: One for each call; asked for in the thread that iterates.
            result_type: As in `run`.
            concurrency: How many calls run at a time.
            ordered: Give outputs in the order of the payloads; else as they come.
            return_errors: Give the `CallError` of a call that failed in the place of its output;
                else it is raised, and ends all.
            timeout_s: Of each call.
            envelope: As in `run`.

        Raises:
            CallError: A call failed.
        """

        def make(payload: Any, stop: threading.Event) -> Pending:
            call = self._call(Order(function, payload, timeout_s, "", envelope))
            return Pending(
                run=lambda: read_as(self._output(call, stop), result_type),
                leave=lambda: self._leave(call),
            )

        return mapped(
            make, payloads, concurrency=concurrency, ordered=ordered, return_errors=return_errors
        )

    def submit(
        self,
        function: str,
        payload: Any = None,
        /,
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        envelope: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Request:
        """Start a request and do not wait for it; it is started once, also over a bad network.

        Args:
            function: As in `run`.
            payload: As in `run`.
            timeout_s: How long the request may take, the time it waits included.
            idempotency_key: Submitting again with the same key and payload, from any client,
                returns the request of the first time.
            envelope: As in `run`.
            **fields: As in `run`.

        Raises:
            CallError: The host refuses.
        """
        order = order_of(function, payload, fields, timeout_s, idempotency_key, envelope)
        return Request(
            self._driver, self._host, self._driver.run(submit(self._host, self._uploads, order))
        )

    def request(self, request_id: str) -> Request:
        """Return a request that was submitted earlier; nothing is asked yet."""
        return Request(self._driver, self._host, request_id)

    def cancel(self, request_id: str) -> bool:
        """Cancel a request or a call; False when it had ended.

        Raises:
            UnknownRequestError: The host does not have it.
        """
        return self._driver.run(self._host.cancel(request_id))

    def _leave(self, call: Call) -> None:
        with suppress(RuntimeError):  # the client is closed
            self._driver.run(call.leave())

    # -- files -------------------------------------------------------------------------------------

    def upload(self, path: Path, *, name: str = "") -> Asset:
        """Send a file, for payloads to refer to; the same content is sent once.

        Args:
            path: Of the file.
            name: What the host calls it; empty takes the file's own.

        Raises:
            OSError: It cannot be read.
            CallError: The host refuses.
        """
        return self._driver.run(self._uploads.upload(os.fspath(path), name))

    def file(self, file: AnyFile) -> File:
        """Return a file of a result, to save or to read.

        Args:
            file: An `Asset`, the object that stands for one in untyped output, or its ref.

        Raises:
            ValidationError: It is no file.
        """
        return File(self._driver, self._host, file)

    def download(self, file: AnyFile, path: Path) -> None:
        """Fetch a file of a result; it appears at the path once it is whole.

        Args:
            file: As in `file`.
            path: Where it goes. A file that is there is replaced.

        Raises:
            CallError: The host does not have it, or another one.
            OSError: It cannot be written.
        """
        self._driver.run(download(self._host, facts_of(file), os.fspath(path)))

    # -- the host ----------------------------------------------------------------------------------

    def functions(self) -> list[dict[str, Any]]:
        """List the functions, with the JSON Schemas of their input and output."""
        return self._driver.run(self._host.listed("/v1/functions", "functions"))

    def requests(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Iterate over the requests that a scheduler knows, the latest first.

        Args:
            **filters: Such as `status="running"`, `function=`, `endpoint=`, `tag=`, `owner=`,
                `worker_id=`, `release_id=`; `limit` is how many are asked for at a time.
        """
        return self._driver.iterate(self._host.pages("/v1/requests", "requests", filters))

    def workers(self) -> list[dict[str, Any]]:
        """List the workers of a scheduler."""
        return self._driver.run(self._host.listed("/v1/workers", "workers"))

    def models(self) -> list[dict[str, Any]]:
        """List the models of a scheduler's workers, and where each is loaded."""
        return self._driver.run(self._host.listed("/v1/models", "models"))

    def releases(self, **filters: Any) -> list[dict[str, Any]]:
        """List the releases of a scheduler.

        Args:
            **filters: Such as `owner=` and `endpoint=`.
        """
        return self._driver.run(self._host.listed("/v1/releases", "releases", **filters))
