"""What a blocking client hands out: requests and files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, overload

from gen_worker.client.calls import follow, read_as, result_of
from gen_worker.client.files import download, facts_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from gen_worker.client.blocking_driver import BlockingDriver
    from gen_worker.client.files import AnyFile
    from gen_worker.client.host import Host
    from gen_worker.client.values import StreamEvent

    Path = str | os.PathLike[str]

__all__ = ["File", "Request"]

T = TypeVar("T")


class Request:
    """A request that goes on without its client."""

    def __init__(self, driver: BlockingDriver, host: Host, request_id: str) -> None:
        self.id = request_id
        self._driver = driver
        self._host = host

    def __repr__(self) -> str:
        return f"Request({self.id!r})"

    def show(self) -> dict[str, Any]:
        """Return all that the host says of it.

        Raises:
            UnknownRequestError: The host does not have it.
        """
        return self._driver.run(self._host.show(self.id))

    def status(self) -> str:
        """Return `queued`, `running`, `succeeded`, `failed` or `canceled`."""
        return str(self.show().get("status", ""))

    def position(self) -> int | None:
        """Return how many requests are before it; None when it does not wait in a queue."""
        position = self.show().get("position")
        return position if isinstance(position, int) else None

    @overload
    def result(self, timeout_s: float | None = None, *, result_type: type[T]) -> T: ...
    @overload
    def result(self, timeout_s: float | None = None, *, result_type: Any = None) -> Any: ...
    def result(self, timeout_s: float | None = None, *, result_type: Any = None) -> Any:
        """Wait for its end and return its output; of a function that streams the list of its items.

        Args:
            timeout_s: How long to wait. The request goes on. The time is looked at whenever the
                host says something, at least every 15 seconds.
            result_type: As in `Client.run`.

        Raises:
            DeadlineExceededError: It has not ended yet.
            CallError: It failed.
        """
        return read_as(self._driver.run(result_of(self._host, self.id, timeout_s)), result_type)

    def events(self, after: int = 0) -> Generator[StreamEvent]:
        """Iterate over its events from the beginning to its end; `restarted` is one of them.

        Args:
            after: Id of the last event that is not wanted.

        Raises:
            StreamGapError: Events are not kept any more.
        """
        yield from self._driver.iterate(follow(self._host, self.id, after))

    def cancel(self) -> bool:
        """Cancel it; False when it had ended."""
        return self._driver.run(self._host.cancel(self.id))


class File:
    """A file that a call has put out."""

    def __init__(self, driver: BlockingDriver, host: Host, file: AnyFile) -> None:
        self._driver = driver
        self._host = host
        self._facts = facts_of(file)

    def __repr__(self) -> str:
        return f"File({self.ref!r})"

    @property
    def ref(self) -> str:
        return self._facts.ref

    @property
    def size_bytes(self) -> int | None:
        """None when the result does not say."""
        return self._facts.size_bytes

    def save_to(self, path: Path) -> None:
        """Do as `Client.download`."""
        self._driver.run(download(self._host, self._facts, os.fspath(path)))

    def read(self) -> bytes:
        """Return its content."""
        return self._driver.run(download(self._host, self._facts))
