"""What goes wrong between workers and an orchestrator, on purpose.

    faults = StreamFaults()
    faults.drop(JobResult)                  # the first result: its connection breaks on the way
    faults.duplicate(JobRequest, 2)         # the second job is sent twice
    async with Orchestrator(faults=faults) as orchestrator:
        ...

`gen_worker.testing.cable` is the network itself: it is cut in the middle of a message, or silent.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.runtime.wire import (
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    TokenDelta,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from gen_worker.runtime.wire import Message
    from gen_worker.testing.orchestrator import Crossing, Orchestrator

__all__ = ["Fault", "FaultKind", "Hold", "StreamFaults", "random_faults"]

FaultKind = Literal["drop_before", "drop_after", "end_stream", "duplicate", "delay", "restart"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong, as a value: printed, it can be copied into a test."""

    kind: FaultKind
    message: str
    """Name of a message type of `gen_worker.runtime.wire`, such as `JobResult`."""
    nth: int = 1
    """Which of them, from 1; 0 is each."""
    seconds: float = 0.0
    """Of a delay, or until a restarted orchestrator is back."""


class Hold:
    """Messages that wait on their stream, and everything behind them."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        """Set once a message waits."""
        self._is_over = asyncio.Event()

    def release(self) -> None:
        """Let everything through, now and later."""
        self._is_over.set()

    async def wait(self) -> None:
        self.has_begun.set()
        await self._is_over.wait()


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    nth: int
    fault: Fault | None = None
    before: Callable[[], Any] | None = None
    after: Callable[[], Any] | None = None


class StreamFaults:
    """A script of faults, by the kind of a message and its number among those of this kind.

    Which direction is meant follows from the kind: jobs and commands go to workers, all else comes
    from them. Numbers count from 1, through all connections; heartbeats are not counted as
    registrations. For one event loop.
    """

    def __init__(self, plan: Iterable[Fault] = ()) -> None:
        """Begin with a plan, such as `random_faults` makes."""
        self._rules: list[_Rule] = []
        self._counts: dict[str, int] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self.happened: list[Fault] = []
        """What went wrong so far, in order."""
        for fault in plan:
            self.add(fault)

    def __repr__(self) -> str:
        return f"<StreamFaults {self.happened!r}>"

    def add(self, fault: Fault) -> None:
        """Put one more fault into the script."""
        self._rules.append(_Rule(message=fault.message, nth=fault.nth, fault=fault))

    def drop(self, message: type[Message], nth: int = 1, *, after: bool = False) -> None:
        """Break the worker's connection, all its streams.

        Args:
            message: Its kind.
            nth: Which.
            after: The message arrives and then the connection breaks; otherwise it is lost.
        """
        kind: FaultKind = "drop_after" if after else "drop_before"
        self.add(Fault(kind=kind, message=message.__name__, nth=nth))

    def end_stream(self, message: type[Message], nth: int = 1) -> None:
        """End the stream that carried a message, after it and in order; the others live on."""
        self.add(Fault(kind="end_stream", message=message.__name__, nth=nth))

    def duplicate(self, message: type[Message], nth: int = 1) -> None:
        """Deliver a message twice."""
        self.add(Fault(kind="duplicate", message=message.__name__, nth=nth))

    def delay(self, message: type[Message], nth: int = 0, *, seconds: float) -> None:
        """Let a message wait, and what follows it on its stream; with each, a slow reader."""
        self.add(Fault(kind="delay", message=message.__name__, nth=nth, seconds=seconds))

    def restart(self, message: type[Message], nth: int = 1, *, seconds: float = 0.0) -> None:
        """Kill the orchestrator's end after a message, and have it back after a while.

        What it knew it still knows, as with a database behind it.
        """
        self.add(Fault(kind="restart", message=message.__name__, nth=nth, seconds=seconds))

    def hold(self, message: type[Message], nth: int = 1) -> Hold:
        """Let a message wait, and what follows it on its stream, until the hold is released.

        The other streams go on: so one overtakes another, and so one stalls for good.
        """
        hold = Hold()
        self._rules.append(_Rule(message=message.__name__, nth=nth, before=hold.wait))
        return hold

    def call(
        self, message: type[Message], action: Callable[[], Any], nth: int = 1, *, after: bool = True
    ) -> None:
        """Do something at a message, such as killing the worker.

        Args:
            message: Its kind.
            action: Called, and awaited when it returns an awaitable.
            nth: Which.
            after: Once the message is delivered; otherwise before.
        """
        rule = _Rule(message=message.__name__, nth=nth)
        name = "after" if after else "before"
        self._rules.append(msgspec.structs.replace(rule, **{name: action}))

    def reset(self) -> None:
        """Forget the script, and count from 1 again."""
        self._rules.clear()
        self._counts.clear()
        self.happened.clear()

    async def settle(self) -> None:
        """Wait until an orchestrator that was killed is back."""
        while self._restarts:
            await asyncio.wait(self._restarts)

    # What an orchestrator calls.

    async def cross(
        self, crossing: Crossing, deliver: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Do to one message all that is planned for it: first it waits, then it may be lost."""
        rules = self._due(crossing.message)
        faults = [rule.fault for rule in rules if rule.fault is not None]
        kinds = {fault.kind for fault in faults}
        self.happened += faults
        for rule in rules:
            if rule.before is not None:
                await _done(rule.before)
        await asyncio.sleep(sum(fault.seconds for fault in faults if fault.kind == "delay"))
        if "drop_before" in kinds:
            crossing.orchestrator.drop(crossing.worker)
            return
        for _ in range(2 if "duplicate" in kinds else 1):
            await deliver()
        for rule in rules:
            if rule.after is not None:
                await _done(rule.after)
        if "drop_after" in kinds:
            crossing.orchestrator.drop(crossing.worker)
        if "end_stream" in kinds:
            crossing.orchestrator.cut(crossing.role)
        for fault in faults:
            if fault.kind == "restart":
                self._restart(crossing.orchestrator, fault.seconds)

    def _due(self, message: Message) -> Sequence[_Rule]:
        """Count a message and return what is planned for it."""
        if isinstance(message, Registration) and message.is_heartbeat:
            return ()
        name = type(message).__name__
        number = self._counts[name] = self._counts.get(name, 0) + 1
        return [rule for rule in self._rules if rule.message == name and rule.nth in (0, number)]

    def _restart(self, orchestrator: Orchestrator, seconds: float) -> None:
        async def restart() -> None:
            # Not within a stream's own task: that ends with the server.
            await orchestrator.stop()
            await asyncio.sleep(seconds)
            await orchestrator.start()

        if not self._restarts:  # it can only be killed while it lives
            task = asyncio.create_task(restart())
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)


async def _done(action: Callable[[], Any]) -> None:
    outcome = action()
    if inspect.isawaitable(outcome):
        await outcome


_MESSAGES: tuple[type[Message], ...] = (
    JobRequest,
    JobResult,
    TokenDelta,
    StreamDone,
    Registration,
)
_KINDS: tuple[FaultKind, ...] = (
    "drop_before",
    "drop_after",
    "end_stream",
    "duplicate",
    "delay",
    "restart",
)


def random_faults(seed: int, *, count: int, messages: int) -> list[Fault]:
    """Return faults at random places; the same for the same seed.

    Args:
        seed: Of the choice.
        count: How many.
        messages: Within how many messages of a kind.
    """
    choice = random.Random(seed)
    faults = []
    for _ in range(count):
        message = choice.choice(_MESSAGES)
        # There are as many registrations as connections, so only the first ones surely come.
        last = 4 if message is Registration else messages
        fault = Fault(
            kind=choice.choice(_KINDS),
            message=message.__name__,
            nth=choice.randint(1, last),
            seconds=round(choice.uniform(0, 0.05), 3),
        )
        faults.append(fault)
    return faults
