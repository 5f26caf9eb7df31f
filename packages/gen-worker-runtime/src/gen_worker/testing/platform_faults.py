"""What goes wrong on a platform, on purpose, by the moment in the life of a request.

platform.faults.lose_worker(after_deltas=3)     # in the middle of the first stream
platform.faults.deliver_twice(at="result", nth=2)
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from gen_worker.runtime.wire import JobRequest, JobResult, TokenDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.wire import Message, StreamRole

__all__ = ["Mishap", "MishapKind", "Moment", "PlatformFaults", "Stage", "random_mishaps"]

MishapKind = Literal["lose_worker", "cut", "silence", "twice", "delay", "restart"]
Moment = Literal["start", "running", "result", "end"]
"""A request is on its way to a worker; the worker has it, and has said so many deltas; its result
is on the way; that has arrived."""

_BEFORE: tuple[Moment, ...] = ("start", "result")
"""Moments at which something is under way that can be lost."""
_BREAKS: tuple[MishapKind, ...] = ("lose_worker", "cut", "silence")


class Mishap(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong, as a value: printed, it can be copied into a test."""

    kind: MishapKind
    at: Moment = "start"
    after_deltas: int = 0
    """While it runs: so many have arrived."""
    nth: int = 1
    """Which time a request comes to this moment, from 1; 0 is each."""
    seconds: float = 0.0
    """Of a delay or a silence; a silence of 0 lasts until `end_silence`."""


class Stage(Protocol):
    """The platform that things go wrong on. On its loop, but for `call`."""

    def call(self, function: Callable[[], None]) -> None:
        """Call something on the loop, and return when it has returned. From any thread."""
        ...

    def cut_clients(self) -> None:
        """Break every connection of clients."""
        ...

    def slow_clients(self, seconds: float) -> None:
        """Have 16 KiB between clients and the scheduler take so long."""
        ...

    def move_hub(self, *, away: bool) -> None:
        """Have the hub be out of reach, or back."""
        ...

    async def lose(self, worker_id: str) -> None:
        """Have a worker vanish without a word; returns once nothing more can come of it."""
        ...

    async def replace(self, worker_id: str) -> None:
        """Start another worker under the same id."""
        ...

    async def restart(self) -> None:
        """Stop the scheduler, and start it again with all that it has kept."""
        ...


class PlatformFaults:
    """A script of what goes wrong; write it before it is to happen. From any thread.

    Every message between the scheduler and its workers passes through it.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._plan: list[Mishap] = []
        self._times: dict[tuple[Moment, int], int] = {}
        self._deltas: dict[str, int] = {}
        self._silent: dict[str, Session] = {}
        """Workers of which nothing is heard, and which hear nothing."""
        self._lost: set[str] = set()
        """Likewise, until another takes their place."""
        self._gone: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.happened: list[Mishap] = []
        """What went wrong so far, in order."""

    def __repr__(self) -> str:
        return f"<PlatformFaults {self.happened!r}, to come: {self.pending!r}>"

    @property
    def pending(self) -> list[Mishap]:
        """What has not happened yet; with `nth=0` it is never over."""
        left = list(self._plan)
        for mishap in self.happened:
            if mishap.nth:
                left.remove(mishap)
        return left

    def add(self, *mishaps: Mishap) -> None:
        """Put more into the script, such as what `random_mishaps` returns."""
        self._plan += mishaps

    def lose_worker(
        self, *, at: Moment = "start", after_deltas: int | None = None, nth: int = 1
    ) -> None:
        """Have the worker vanish, as a process that is killed; another one takes its place.

        Args:
            at: When: what is under way then does not arrive.
            after_deltas: While it runs, once so many deltas have arrived.
            nth: The time a request comes to this moment; 0 is each time.
        """
        self._at("lose_worker", at, after_deltas, nth)

    def cut_network(
        self, *, at: Moment = "start", after_deltas: int | None = None, nth: int = 1
    ) -> None:
        """Break the worker's connection; it works on, and comes back. See `lose_worker`."""
        self._at("cut", at, after_deltas, nth)

    def silence_worker(
        self,
        *,
        at: Moment = "start",
        after_deltas: int | None = None,
        nth: int = 1,
        seconds: float = 0.0,
    ) -> None:
        """Let nothing more come from the worker or go to it, and have that noticed at once.

        It works on meanwhile, and is heard again after so many seconds, or from `end_silence` on:
        then also of what was given to another worker in the meantime. See `lose_worker`.
        """
        self._at("silence", at, after_deltas, nth, seconds)

    def deliver_twice(
        self, *, at: Moment = "start", after_deltas: int | None = None, nth: int = 1
    ) -> None:
        """Have a message arrive twice: the request, the delta or the result. See `lose_worker`."""
        self._at("twice", at, after_deltas, nth)

    def delay(
        self,
        seconds: float,
        *,
        at: Moment = "start",
        after_deltas: int | None = None,
        nth: int = 1,
    ) -> None:
        """Have a message arrive late, and what follows it on its stream. See `lose_worker`."""
        self._at("delay", at, after_deltas, nth, seconds)

    def restart_scheduler(
        self, *, at: Moment = "start", after_deltas: int | None = None, nth: int = 1
    ) -> None:
        """Stop the scheduler at that moment and start it again. See `lose_worker`."""
        self._at("restart", at, after_deltas, nth)

    def _at(
        self,
        kind: MishapKind,
        at: Moment,
        after_deltas: int | None,
        nth: int,
        seconds: float = 0.0,
    ) -> None:
        moment: Moment = at if after_deltas is None else "running"
        self.add(
            Mishap(kind=kind, at=moment, after_deltas=after_deltas or 0, nth=nth, seconds=seconds)
        )

    # At once.

    def end_silence(self, worker_id: str = "") -> None:
        """Let a worker, or all of them, be heard again: they connect anew."""

        def end() -> None:
            for silent in [worker_id] if worker_id else list(self._silent):
                session = self._silent.pop(silent, None)
                if session is not None:
                    session.close("its silence has ended")

        self._stage.call(end)

    def cut_clients(self) -> None:
        """Break every connection of clients, in the middle of whatever is said; they come back."""
        self._stage.call(self._stage.cut_clients)

    def slow_clients(self, seconds: float) -> None:
        """Have what is said between clients and the scheduler take so long, for each 16 KiB.

        0 is as quick as can be.
        """
        self._stage.call(lambda: self._stage.slow_clients(seconds))

    def lose_hub(self) -> None:
        """Break every connection to the hub, and refuse new ones, until `restore_hub`."""
        self._stage.call(lambda: self._stage.move_hub(away=True))

    def restore_hub(self) -> None:
        """Let the hub be reached again."""
        self._stage.call(lambda: self._stage.move_hub(away=False))

    # On the loop.

    async def settle(self) -> None:
        """Wait until everything that has begun is over; what failed there is raised."""
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks)
            self._tasks -= done
            for task in done:
                task.result()

    # As the gateway's passage.

    async def cross(
        self,
        session: Session,
        role: StreamRole,
        message: Message,
        deliver: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_command: bool,
    ) -> None:
        """Do to one message all that is planned for its moment."""
        if session.worker_id in self._silent:
            self._silent[session.worker_id] = session  # that of the scheduler that runs now
            return
        if session.worker_id in self._lost:
            return
        before = self._due_before(message)
        await asyncio.sleep(sum(mishap.seconds for mishap in before if mishap.kind == "delay"))
        if self._begin(before, session):
            return
        for _ in range(1 + sum(mishap.kind == "twice" for mishap in before)):
            await deliver()
        after = self._due_after(message)
        await asyncio.sleep(sum(mishap.seconds for mishap in after if mishap.kind == "delay"))
        for _ in range(sum(mishap.kind == "twice" for mishap in after)):
            await deliver()
        self._begin(after, session)

    def ended(self, session: Session, role: StreamRole) -> None:
        """Take note that a stream of a worker is closed."""
        if session.is_gone and session.worker_id in self._gone:
            self._gone[session.worker_id].set()

    # Inside.

    def _due_before(self, message: Message) -> list[Mishap]:
        if isinstance(message, JobRequest):
            self._deltas[message.request_id] = 0
            return self._due("start")
        return self._due("result") if isinstance(message, JobResult) else []

    def _due_after(self, message: Message) -> list[Mishap]:
        if isinstance(message, JobRequest):
            return self._due("running")
        if isinstance(message, TokenDelta):
            count = self._deltas[message.request_id] = 1 + self._deltas.get(message.request_id, 0)
            return self._due("running", count)
        return self._due("end") if isinstance(message, JobResult) else []

    def _due(self, at: Moment, deltas: int = 0) -> list[Mishap]:
        time = self._times[at, deltas] = 1 + self._times.get((at, deltas), 0)
        due = [
            one
            for one in self._plan
            if (one.at, one.after_deltas) == (at, deltas) and one.nth in (0, time)
        ]
        self.happened += due
        return due

    def _begin(self, mishaps: Iterable[Mishap], session: Session) -> bool:
        """Break what is to be broken, and tell whether the connection is."""
        is_broken = False
        for mishap in mishaps:
            if mishap.kind == "restart":
                self._later(self._stage.restart())
            elif mishap.kind in _BREAKS and not is_broken:
                self._break(mishap, session)
                is_broken = True
        return is_broken

    def _break(self, mishap: Mishap, session: Session) -> None:
        worker_id = session.worker_id
        if mishap.kind == "lose_worker":
            self._lost.add(worker_id)
            self._later(self._replace(session))
        elif mishap.kind == "silence":
            self._silent[worker_id] = session
            if mishap.seconds:
                self._later(self._end_silence(worker_id, mishap.seconds))
        session.close(f"{mishap.kind}, as it was planned")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something outside the stream that it happens to."""
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def _replace(self, session: Session) -> None:
        worker_id = session.worker_id
        gone = self._gone[worker_id] = asyncio.Event()
        await self._stage.lose(worker_id)
        if not session.is_gone:
            await gone.wait()
        del self._gone[worker_id]
        self._lost.discard(worker_id)
        await self._stage.replace(worker_id)

    async def _end_silence(self, worker_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.end_silence(worker_id)


def random_mishaps(
    seed: int, *, count: int = 3, requests: int = 3, deltas: int = 3
) -> list[Mishap]:
    """Return mishaps at random moments; the same for the same seed.

    Args:
        seed: Of the choice.
        count: How many.
        requests: Among the first so many requests.
        deltas: Within so many deltas of a stream.
    """
    choice = random.Random(seed)
    kinds: tuple[MishapKind, ...] = ("lose_worker", "cut", "silence", "twice", "delay", "restart")
    moments: tuple[Moment, ...] = ("start", "running", "result", "end")
    mishaps = []
    for _ in range(count):
        at = choice.choice(moments)
        mishaps.append(
            Mishap(
                kind=choice.choice(kinds),
                at=at,
                after_deltas=choice.randint(0, deltas) if at == "running" else 0,
                nth=choice.randint(1, requests),
                seconds=round(choice.uniform(0.01, 0.05), 3),
            )
        )
    return mishaps
