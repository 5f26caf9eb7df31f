"""The scheduler's hand: gives requests to workers and takes what they make of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.dispatcher.core import Core
from gen_worker.runtime.scheduler.dispatcher.giving import Giving
from gen_worker.runtime.scheduler.dispatcher.learning import Learning
from gen_worker.runtime.scheduler.dispatcher.lines import Lines
from gen_worker.runtime.scheduler.dispatcher.losses import Losses
from gen_worker.runtime.scheduler.dispatcher.models import Models
from gen_worker.runtime.scheduler.dispatcher.mutes import Mutes
from gen_worker.runtime.scheduler.dispatcher.options import DispatchOptions
from gen_worker.runtime.scheduler.dispatcher.pressure import Pressure
from gen_worker.runtime.scheduler.dispatcher.taking import Taking
from gen_worker.runtime.scheduler.fleet.fleet import Fleet
from gen_worker.runtime.scheduler.fleet.member import DrainOrder
from gen_worker.runtime.scheduler.gateway import GatewayHandler
from gen_worker.runtime.scheduler.placement import place as place_first
from gen_worker.runtime.wire import (
    Drain,
    DrainResult,
    FunctionCapabilities,
    FunctionUnavailable,
    JobResult,
    LoadModelResult,
    ModelReady,
    StreamDone,
    StreamError,
    TokenDelta,
    UnloadModelResult,
    WorkerEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler.costs import Costs
    from gen_worker.runtime.scheduler.dispatcher.ports import Functions, Outfit, Place, Queues
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.fleet.views import ModelView, WorkerView
    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.wire import Message, Registration

__all__ = ["Dispatcher"]

_DEFAULTS = DispatchOptions()
_SIGN_OF_LIFE_S = 20.0
"""After which a worker that was told nothing is sent an empty message: one that hears nothing for
long takes its connection for half open, and connects anew."""
_ENDED = ("drained", "deadline_exceeded")
_MAX_NAMED = 3

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Dispatcher(GatewayHandler):
    """Between the requests that wait and the gateway. On one loop.

    It is the `runner` of requests and the handler of the gateway. Placement and queues are behind
    the protocols of `gen_worker.runtime.scheduler.dispatcher.ports`.
    """

    def __init__(
        self,
        functions: Functions,
        outfit: Outfit,
        ledger: Ledger | None = None,
        *,
        options: DispatchOptions = _DEFAULTS,
        place: Place = place_first,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare.

        Args:
            functions: What releases say about functions.
            outfit: Equips workers.
            ledger: Where what is learned of costs is kept; None keeps it for this process only.
            options: How.
            place: Decides who gets what.
            clock: Unix time, the ledger's own; by default one that does not jump.
        """
        self._options = options
        self.clock = self._clock = clock or steady_clock()
        self._outfit = outfit
        self._learning = Learning(ledger)
        self.fleet = Fleet(processor_slots=options.processor_slots)
        self._core = core = Core(self.fleet, self._learning, options, self._clock)
        self._giving = Giving(core, outfit)
        self._lines = Lines(core, functions, place, self._giving.give)
        core.freed = self._lines.freed
        self._losses = Losses(core, functions)
        self._pressure = Pressure(core)
        self._taking = Taking(core, self._pressure, self._losses.adopt, self._losses.answered)
        self._mutes = Mutes(core, functions, self._taking.lose)
        self._models = Models(core)
        self._saver: asyncio.Task[None] | None = None
        self._hears: dict[type, Callable[[Member, Message], None]] = self._ears()

    def __repr__(self) -> str:
        return f"<Dispatcher with {self.fleet!r}, {len(self._core.given)} given>"

    async def start(self, requests: Queues) -> None:
        """Begin, with what was learned earlier.

        After the requests were started with this as their runner, and before the gateway is: what
        workers had is waited for, and given to others when they do not come back.
        """
        self._core.loop = asyncio.get_running_loop()
        self._core.requests = requests
        await self._learning.read()
        for live in list(requests.running()):
            self._losses.expect(live)
        has_more = len(requests) > 0
        self._lines.open(self._clock() + (self._options.reunion_s if has_more else 0.0))
        self._mutes.start()
        self._saver = self._core.loop.create_task(self._save())

    async def close(self) -> None:
        """Give nothing more, and keep what was learned. After the gateway was stopped."""
        self._lines.close()
        self._losses.close()
        await self._giving.close()
        await self._taking.close()
        self._core.close()
        if self._saver is not None:
            self._saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._saver
        await self._learning.save()

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(self._options.save_every_s)
            await self._learning.save()

    # -- the runner of requests --------------------------------------------------------------------

    def wake(self, queue: str) -> None:
        """Look whether the first request of a queue can be given to a worker, soon."""
        self._lines.wake(queue)

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        """Have a request stop that a worker was given."""
        job = self._core.given.get(live.record.request_id)
        if job is not None and job.live is live:
            self._core.interrupt(job)

    # -- what workers are told ---------------------------------------------------------------------

    async def drain(
        self, worker_id: str, deadline_s: float = 0.0, reason: str = "operator"
    ) -> bool:
        """Have a worker take nothing more, finish what it has, and leave.

        Args:
            worker_id: Which.
            deadline_s: Seconds after which it ends in any case; 0 leaves it to its settings.
            reason: For its log.

        Returns:
            Whether there is such a worker, and it was told.
        """
        member = self.fleet.find(worker_id)
        if member is None or not member.is_connected:
            return False
        ends_at = self._clock() + deadline_s if deadline_s > 0 else 0.0
        member.drain = DrainOrder(reason=reason, ends_at=ends_at)
        member.touch()
        return self._tell_drain(member)

    def _tell_drain(self, member: Member) -> bool:
        order = member.drain
        if order is None:
            return False
        return self._core.tell(
            member,
            Drain(
                reason=order.reason,
                deadline_unix_ms=round(order.ends_at * 1000),
                terminate_after_deadline=order.ends_at > 0,
            ),
        )

    # -- what clients are shown --------------------------------------------------------------------

    def workers(self) -> tuple[WorkerView, ...]:
        """Return every worker that is known, by id."""
        return self.fleet.workers(self._clock(), self._options.policy.silent_s)

    def models(self) -> tuple[ModelView, ...]:
        """Return every model that some worker has, by ref."""
        return self.fleet.models()

    def waits_for(self, queue: str) -> str:
        """Return why the first request of a queue waits, in words; empty when it does not."""
        return self._lines.reason(queue)

    @property
    def unwritten_bytes(self) -> int:
        """Of what workers have said and is not on disk."""
        return self._pressure.unwritten_bytes

    @property
    def costs(self) -> Costs:
        """What was learned of costs, for whoever decides about requests before they wait."""
        return self._learning.costs

    # -- what the gateway says ---------------------------------------------------------------------

    def registered(self, session: Session, registration: Registration) -> None:
        now, known = self._clock(), self.fleet.find(session.worker_id)
        is_anew = known is None or known.connection != session.connection
        if known is not None and known.session is not None and known.session is not session:
            for job in known.jobs.values():  # connections are counted from 1 again
                job.connection = 0
            is_anew = True
        member = self.fleet.register(session, registration, now)
        if is_anew:
            self._core.tell(member, self._outfit.config(member.state()))
            self._tell_drain(member)
        self._losses.registered(member, session, registration)
        self._lines.freed(member)

    def heartbeat(self, session: Session, registration: Registration) -> None:
        member, now = self.fleet.find(session.worker_id), self._clock()
        if member is None or member.session is not session:
            return
        if self.fleet.report(member, registration.resources, now):
            self._lines.freed(member)
        if now - member.told_at > _SIGN_OF_LIFE_S:
            self._core.tell(member, b"")

    def heard(self, session: Session, message: Message) -> None:
        hear = self._hears.get(type(message))
        if hear is None:
            return
        member = self.fleet.find(session.worker_id)
        if member is None:  # its streams are independent: its registration may come later
            member = self.fleet.expect(session.worker_id, self._clock())
            self._losses.lost(member)
        hear(member, message)

    def lost(self, session: Session, reason: str) -> None:
        member = self.fleet.find(session.worker_id)
        if member is not None and member.session is session and member.is_connected:
            _log.info("worker %r is gone%s: %s", session.worker_id, _with(member), reason)
            member.gone()
            self._losses.lost(member)

    def _ears(self) -> dict[type, Callable[[Member, Message], None]]:
        taking, models = self._taking, self._models
        ears: dict[type, Callable[[Member, Message], None]] = {}
        for kind, hear in (
            (JobResult, taking.result),
            (TokenDelta, taking.delta),
            (StreamDone, taking.done),
            (StreamError, taking.broken),
            (WorkerEvent, self._reported),
            (FunctionCapabilities, self._capable),
            (FunctionUnavailable, self._unavailable),
            (LoadModelResult, models.loaded),
            (UnloadModelResult, models.unloaded),
            (ModelReady, models.ready),
            (DrainResult, self._draining),
        ):
            ears[kind] = hear  # type: ignore[assignment]  # each is told of its own kind
        return ears

    def _reported(self, member: Member, event: WorkerEvent) -> None:
        if event.event_type == "worker.draining" and not event.request_id:
            self._leaving(member)
        elif event.request_id:
            if event.event_type == "metrics.job":
                self._models.measured(member, event)
            self._taking.reported(member, event)

    def _capable(self, member: Member, capabilities: FunctionCapabilities) -> None:
        member.capable(capabilities)
        self._lines.freed(member)

    def _unavailable(self, member: Member, signal: FunctionUnavailable) -> None:
        member.cannot_run(signal.function, signal.detail or signal.reason)

    def _draining(self, member: Member, result: DrainResult) -> None:
        if result.status in _ENDED:
            member.drain = None  # whoever comes back under its name is another
        self._leaving(member)

    def _leaving(self, member: Member) -> None:
        member.is_leaving = True
        member.touch()


def _with(member: Member) -> str:
    """Return in words what a worker had: one of these may be what ended it."""
    jobs = list(member.jobs.values())
    if not jobs:
        return ""
    named = [f"{job.request_id!r} of {job.live.record.function}" for job in jobs[:_MAX_NAMED]]
    more = [f"{len(jobs) - _MAX_NAMED} more"] if len(jobs) > _MAX_NAMED else []
    return f" with {', '.join(named + more)}"
