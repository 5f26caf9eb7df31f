"""What the dispatcher needs of its surroundings; each can be another one, such as a cluster's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from gen_worker.runtime.wire import EndpointConfig, ResolvedModel, ResolvedRepo

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Iterable, Sequence, Set

    from gen_worker.errors import Failure
    from gen_worker.resources import ResourceRequirements, Resources
    from gen_worker.runtime.scheduler.decisions import Decision, Needs, Policy
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.scheduler.values import Ending, NewEvent, StoredCall

__all__ = ["Equipment", "Facts", "Functions", "Outfit", "Place", "Queues"]


class Queues(Protocol):
    """Whoever owns requests: whose turn it is, and what became of an attempt. On the loop."""

    def __len__(self) -> int: ...
    def first(self, queue: str) -> Live | None:
        """Return the request whose turn it is; None when nobody waits."""
        ...

    def take(self, queue: str) -> Live | None:
        """Take the request whose turn it is out of its queue."""
        ...

    def put_back(self, live: Live) -> None:
        """Have a request wait again that no worker has begun; no attempt is spent."""
        ...

    def length(self, queue: str) -> int:
        """Return how many wait."""
        ...

    def live(self, request_id: str) -> Live | None: ...
    def running(self) -> Iterable[Live]:
        """Return those that a worker had when the scheduler was stopped."""
        ...

    def given(self, live: Live, worker_id: str) -> int:
        """Note that a worker was given a request; return which attempt this is."""
        ...

    async def call(self, live: Live) -> StoredCall:
        """Return what a worker is given of a request.

        Raises:
            LedgerWriteError: The disk cannot be read now.
            LookupError: It is gone.
        """
        ...

    def adopted(self, live: Live, worker_id: str) -> int | None:
        """Note that a worker runs a request, which waits no longer; return the attempt.

        None: it has ended, another worker has it, or what it has produced was taken back.
        """
        ...

    def produced(self, live: Live, attempt: int, events: Sequence[NewEvent]) -> Future[None]:
        """Keep what an attempt produced; done when that is committed."""
        ...

    def ended(self, live: Live, attempt: int, ending: Ending, event: NewEvent) -> object:
        """End a request, once; of an attempt that is over only what was not streamed counts."""
        ...

    def failed(
        self, live: Live, attempt: int, failure: Failure, *, is_worker_lost: bool = False
    ) -> object:
        """End a request, or have it tried again."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether the disk has to catch up before more is read."""
        ...


class Facts(Protocol):
    """What a release says about one of its functions."""

    @property
    def resources(self) -> Resources | ResourceRequirements: ...
    @property
    def is_streamed(self) -> bool: ...
    @property
    def timeout_ms(self) -> int | None:
        """The author's limit; the worker's clock begins with the function."""
        ...

    @property
    def max_batch(self) -> int | None:
        """Calls that one run takes together; None when it takes one."""
        ...


class Functions(Protocol):
    """What releases say about their functions; `gen_worker.runtime.scheduler.catalog` is one."""

    def known(self, owner: str, endpoint: str, release_id: str, function: str) -> Facts | None:
        """Return what is known of a function at once, if it was asked for before."""
        ...

    async def facts(self, owner: str, endpoint: str, release_id: str, function: str) -> Facts:
        """Return what is known of a function.

        Raises:
            UnknownFunctionError: The release, or the function in it, is gone.
        """
        ...


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets along with a request; fields of `JobRequest`."""

    file_base_url: str = ""
    capability_token: str = ""
    job_id: str = ""
    repos: Mapping[str, ResolvedRepo] = {}
    models: Mapping[str, ResolvedModel] = {}


class Outfit(Protocol):
    """Equips workers for the requests they are given."""

    async def outfit(self, live: Live, state: WorkerState, payload: bytes) -> Equipment:
        """Return what a worker is given with a request.

        Args:
            live: Was taken from its queue.
            state: Of the worker it goes to.
            payload: Of the request, as the worker gets it.

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
