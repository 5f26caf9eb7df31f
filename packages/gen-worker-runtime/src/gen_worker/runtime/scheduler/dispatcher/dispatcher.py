"""The scheduler's hand: gives requests to workers and takes what they make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.dispatcher.options import DispatchOptions
from gen_worker.runtime.scheduler.gateway import GatewayHandler
from gen_worker.runtime.scheduler.placement import place as place_first

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler.dispatcher.ports import (
        FactsOf,
        Outfit,
        Place,
        Queues,
        Request,
    )
    from gen_worker.runtime.scheduler.fleet import ModelView, WorkerView
    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.wire import Message, Registration

__all__ = ["Dispatcher"]

_DEFAULTS = DispatchOptions()


class Dispatcher(GatewayHandler):
    """Between the requests that wait and the gateway. On one loop.

    Made before the gateway and the requests, which it is bound to by `start`.
    """

    def __init__(
        self,
        facts_of: FactsOf,
        outfit: Outfit,
        ledger: Ledger | None = None,
        *,
        options: DispatchOptions = _DEFAULTS,
        place: Place = place_first,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare.

        Args:
            facts_of: What releases say about functions.
            outfit: Equips workers.
            ledger: Where what is learned of costs is kept; None keeps it for this process only.
            options: How.
            place: Decides who gets what.
            clock: Unix time; by default one that does not jump.
        """
        self._clock = clock or steady_clock()

    async def start(self, requests: Queues) -> None:
        """Begin with what was learned earlier. Before the gateway and the requests are started."""

    async def close(self) -> None:
        """Give nothing more, and keep what was learned. After the gateway was stopped."""

    # The runner of requests.

    def wake(self, queue: str) -> None:
        """Look whether the first request of a queue can be given to a worker, soon."""

    def interrupt(self, live: Request, reason: CancelReason) -> None:
        """Have a request stop that a worker was given."""

    # What workers are told.

    async def drain(
        self, worker_id: str, deadline_s: float = 0.0, reason: str = "operator"
    ) -> bool:
        """Have a worker take nothing more, finish what it has, and leave.

        Args:
            worker_id: Which.
            deadline_s: Seconds after which it ends in any case; 0 waits for all it has.
            reason: For its log.

        Returns:
            Whether there is such a worker, and it was told.
        """
        raise NotImplementedError

    # What clients are shown.

    def workers(self) -> tuple[WorkerView, ...]:
        """Return every worker that is known, by id."""
        return ()

    def models(self) -> tuple[ModelView, ...]:
        """Return every model that some worker has, by ref."""
        return ()

    # What the gateway says.

    def registered(self, session: Session, registration: Registration) -> None: ...
    def heartbeat(self, session: Session, registration: Registration) -> None: ...
    def heard(self, session: Session, message: Message) -> None: ...
    def lost(self, session: Session, reason: str) -> None: ...
