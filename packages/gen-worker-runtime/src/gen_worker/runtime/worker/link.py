"""Keeps a worker connected: performs what `states` decides, and beats its heart."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Protocol

from gen_worker.runtime.engine.deadlines import SYSTEM_CLOCK, Timers
from gen_worker.runtime.worker.connection import Connection, Registrar
from gen_worker.runtime.worker.outbox import Outbox, OutboxLimits
from gen_worker.runtime.worker.states import (
    Connected,
    Dial,
    Event,
    Exit,
    Finish,
    HangUp,
    Heard,
    LinkPolicy,
    LinkState,
    Lost,
    Opened,
    Started,
    Stopped,
    Ticked,
    transition,
    wake_at,
)
from gen_worker.runtime.worker.streams import ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine.deadlines import Clock, Timer
    from gen_worker.runtime.wire import Message
    from gen_worker.runtime.worker.outbox import Role

__all__ = ["Link", "LinkHandler"]

_LOOK_S = 0.01

_log = logging.getLogger("gen_worker.worker")


class LinkHandler(Registrar, Protocol):
    """The worker behind the connection. Called on the loop; nothing here may block."""

    def token(self) -> str:
        """Return the bearer token for the next connection; empty for none."""
        ...

    def dialing(self, address: str) -> None:
        """Take note that an address is being dialed."""
        ...

    def opened(self) -> None:
        """Take note that the worker's registration is written; signals go out behind it."""
        ...

    def receive(self, message: Message) -> None:
        """Take what the orchestrator says."""
        ...

    def unreached(self, reason: str) -> None:
        """Take note that the address that was dialed cannot be had now; it is dialed again."""
        ...

    def lost(self, reason: str) -> None:
        """Take note that the connection is gone; what is under way goes on."""
        ...


class Link:
    """The one connection of a worker, through every loss of it."""

    def __init__(
        self,
        policy: LinkPolicy,
        handler: LinkHandler,
        *,
        heartbeat_s: float = 10.0,
        splits: bool = True,
        limits: OutboxLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare to connect; call it on the loop that `run` runs on.

        Args:
            policy: Where to, how often, how long.
            handler: The worker.
            heartbeat_s: Seconds between two heartbeats.
            splits: Whether results and events get streams of their own.
            limits: Of what waits to be written.
            clock: For every timer.
        """
        self._policy = policy
        self._handler = handler
        self._heartbeat_s = heartbeat_s
        self._splits = splits
        self._clock = clock
        self._timers = Timers(clock)
        self._loop = asyncio.get_running_loop()
        self._ident = get_ident()
        self._is_waking = self._is_leaving = False
        self._heard_at = 0.0
        self.outbox = Outbox(limits or OutboxLimits(), clock=clock.now, wake=self._wake)
        self.state = LinkState()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._alarm: Timer | None = None
        self._heart: Timer | None = None
        self._exit: asyncio.Future[Exit] = self._loop.create_future()

    async def run(self) -> Exit:
        """Connect, and again, until there is a reason to leave; return it."""
        self._feed(Started())
        try:
            return await self._exit
        finally:
            self._timers.close()
            if self._task is not None:
                await asyncio.gather(self._task, return_exceptions=True)

    async def leave(self, grace_s: float, code: int = 0, phase: str = "stopped") -> None:
        """Write what waits, close the streams, and have `run` return.

        Args:
            grace_s: Seconds after which the streams are cut, and what waits is lost.
            code: Exit code.
            phase: As it is logged.
        """
        ends_at = self._loop.time() + grace_s
        while True:
            while not self.outbox.is_empty and self._loop.time() < ends_at:
                await asyncio.sleep(_LOOK_S)
            await self._finish(max(0.0, ends_at - self._loop.time()))
            waits = self.outbox.statistics()
            if not (waits.results or waits.deltas) or self._loop.time() >= ends_at:
                break
            self._feed(Lost(self.state.connection, "UNAVAILABLE", "broken while it was closed"))
        self._feed(Stopped(code, phase))

    async def _finish(self, grace_s: float) -> None:
        """Close the streams in order; what a broken one had taken is in the outbox then."""
        if self._connection is not None and self._task is not None:
            self._is_leaving = True
            self._connection.finish()
            await asyncio.wait([self._task], timeout=grace_s)
            self._is_leaving = False

    @property
    def is_connected(self) -> bool:
        return self.state.phase in ("opened", "established")

    def heartbeat(self) -> None:
        """Tell the orchestrator at once how the worker is doing."""
        if self._connection is not None and self.is_connected:
            self._connection.register(is_heartbeat=True)

    # Events.

    def _feed(self, event: Event, *, at: float | None = None) -> None:
        """Let the state machine decide, and do what it says."""
        before = self.state.phase
        self.state, effects = transition(
            self.state,
            event,
            now=self._clock.now() if at is None else at,
            policy=self._policy,
            random=random.random,
        )
        for effect in effects:
            match effect:
                case Dial():
                    self._dial(effect)
                case HangUp(_, reason):
                    self._hang_up()
                    if before != "dialing":
                        self._handler.lost(reason)
                    elif self.state.phase == "waiting":
                        self._handler.unreached(reason)
                case Connected():
                    pass
                case Finish(exit):
                    if not self._exit.done():
                        self._exit.set_result(exit)
        self._set_alarm()

    def _dial(self, dial: Dial) -> None:
        number, address = dial
        self._handler.dialing(str(address))
        connection = self._connection = Connection(
            address,
            self.outbox,
            self._handler,
            token=self._handler.token(),
            splits=self._splits,
            opened=partial(self._opened, number),
            heard=partial(self._heard, number),
        )
        self._task = self._loop.create_task(self._run(connection, number, self._task))

    async def _run(
        self, connection: Connection, number: int, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:  # its outbox is ours: what it took is back before we begin
            await ended(before)
        try:
            end = await connection.run()
        except Exception as error:  # no connection is worth the worker
            _log.exception("connection %d failed", number)
            self._feed(Lost(number, type(error).__name__, str(error)))
        else:
            if not self._is_leaving:
                self._feed(Lost(number, end.code, end.details))

    def _hang_up(self) -> None:
        self._connection = None
        if self._heart is not None:
            self._heart.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _opened(self, number: int) -> None:
        self._feed(Opened(number))
        self._handler.opened()
        self._beat_later()

    def _heard(self, number: int, message: Message | None) -> None:
        if self.state.phase == "established" and self.state.connection == number:
            self._heard_at = self._clock.now()  # for the next tick; a job need not wait for it
        else:
            self._feed(Heard(number))
        if message is None:
            return
        try:
            self._handler.receive(message)
        except Exception:
            _log.exception("%r failed", message)

    # Time.

    def _set_alarm(self) -> None:
        """Have the state machine asked again in time; too early does no harm, and is cheap."""
        due = wake_at(self.state, self._policy)
        alarm = self._alarm
        if due is None or (alarm is not None and alarm.callback is not None and alarm.when <= due):
            return
        if alarm is not None:
            alarm.cancel()
        self._alarm = self._timers.add(max(0.0, due - self._clock.now()), self._on_loop(self._tick))

    def _tick(self) -> None:
        if self._heard_at > self.state.heard_at and self.state.phase == "established":
            self._feed(Heard(self.state.connection), at=self._heard_at)
        self._feed(Ticked())

    def _beat_later(self) -> None:
        self._heart = self._timers.add(self._heartbeat_s, self._on_loop(self._beat))

    def _beat(self) -> None:
        if self.is_connected:
            self.outbox.settle()
            self.heartbeat()
            self._beat_later()

    def _on_loop(self, callback: Callable[[], None]) -> Callable[[], None]:
        def post() -> None:
            self._loop.call_soon_threadsafe(callback)

        return post

    # Writing.

    def _wake(self, role: Role) -> None:
        if get_ident() == self._ident:
            if self._connection is not None:
                self._connection.wake(role)
        elif not self._is_waking:
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._wake_for_telemetry)

    def _wake_for_telemetry(self) -> None:
        """Wake whichever stream carries what other threads may tell."""
        self._is_waking = False
        if self._connection is not None:
            self._connection.wake("control")
            self._connection.wake("events")
