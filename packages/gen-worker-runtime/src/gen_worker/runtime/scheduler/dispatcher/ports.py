"""What the dispatcher needs of its surroundings; each can be another one, such as a cluster's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from gen_worker.runtime.wire import EndpointConfig, ResolvedModel, ResolvedRepo

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Sequence, Set

    from gen_worker.errors import Failure
    from gen_worker.resources import ResourceRequirements, Resources
    from gen_worker.runtime.scheduler.decisions import Decision, Needs, Policy
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestRecord,
        StoredCall,
        StoredEvent,
    )

__all__ = ["Chosen", "Equipment", "Facts", "FactsOf", "Outfit", "Place", "Queues", "Request"]


class Chosen(Protocol):
    """What was decided about a request when it was submitted."""

    @property
    def refs(self) -> tuple[str, ...]:
        """Models it needs."""
        ...

    @property
    def factors(self) -> Mapping[str, float]:
        """Numbers of its payload that its cost depends on."""
        ...

    @property
    def hints(self) -> Mapping[str, str]: ...
    @property
    def invoker_id(self) -> str: ...


class Request(Protocol):
    """One request that has not ended; the same object until it has."""

    @property
    def record(self) -> RequestRecord: ...
    @property
    def queue(self) -> str: ...
    @property
    def options(self) -> Chosen: ...
    @property
    def attempt(self) -> int: ...
    @property
    def is_canceling(self) -> bool: ...


class Queues(Protocol):
    """Whoever owns requests: whose turn it is, and what became of an attempt. On the loop."""

    def first(self, queue: str) -> Request | None:
        """Return the request whose turn it is; None when nobody waits."""
        ...

    def take(self, queue: str) -> Request | None:
        """Take the request whose turn it is out of its queue."""
        ...

    def put_back(self, live: Request) -> None:
        """Have a request wait again that no worker has begun; no attempt is spent."""
        ...

    def length(self, queue: str) -> int: ...
    def live(self, request_id: str) -> Request | None: ...
    async def call(self, live: Request) -> StoredCall:
        """Return what a worker is given of a request."""
        ...

    def given(self, live: Request, worker_id: str) -> int:
        """Note that a worker was given a request; return which attempt this is."""
        ...

    def adopted(self, live: Request, worker_id: str) -> None:
        """Note that a worker runs the present attempt of a request; it waits no longer."""
        ...

    def produced(
        self, live: Request, attempt: int, events: Sequence[NewEvent]
    ) -> Future[tuple[StoredEvent, ...]]:
        """Keep what an attempt produced; done when that is committed."""
        ...

    def ended(self, live: Request, attempt: int, ending: Ending, event: NewEvent) -> None: ...
    def failed(
        self, live: Request, attempt: int, failure: Failure, is_worker_lost: bool = False
    ) -> None:
        """End a request, or have it tried again."""
        ...


class Facts(Protocol):
    """What a release says about one of its functions."""

    @property
    def resources(self) -> Resources | ResourceRequirements: ...
    @property
    def output_mode(self) -> str: ...
    @property
    def timeout_ms(self) -> int | None: ...
    @property
    def max_batch(self) -> int | None:
        """Calls that one run takes together; None when it takes one."""
        ...

    @property
    def concurrency_mode(self) -> str:
        """`sequential`, `batched`, `concurrent` or nothing."""
        ...


class FactsOf(Protocol):
    def __call__(self, live: Request) -> Facts:
        """Return what the release of a request says about its function; quick.

        Raises:
            WorkerError: The release, or the function in it, is gone.
        """
        ...


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets along with a request; fields of `JobRequest`."""

    file_base_url: str = ""
    capability_token: str = ""
    repos: Mapping[str, ResolvedRepo] = {}
    models: Mapping[str, ResolvedModel] = {}


class Outfit(Protocol):
    """Equips workers for the requests they are given."""

    async def outfit(self, live: Request, state: WorkerState) -> Equipment:
        """Return what a worker is given with a request.

        Args:
            live: Was taken from its queue.
            state: Of the worker it goes to.

        Raises:
            WorkerError: It cannot be equipped; this attempt fails with it.
        """
        ...

    def config(self, state: WorkerState) -> EndpointConfig:
        """Return what a worker is told when it connects; it waits for that before it fetches."""
        ...


class Place(Protocol):
    """Decides where a request goes; `gen_worker.runtime.scheduler.placement.place` is one."""

    def __call__(
        self,
        needs: Needs,
        workers: Sequence[WorkerState],
        *,
        now: float,
        policy: Policy,
        needed: Set[str] = frozenset(),
    ) -> Decision: ...
